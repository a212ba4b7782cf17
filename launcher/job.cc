#include "launcher/job.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "hora/status.h"
#include "launcher/agents.h"
#include "launcher/guard.h"
#include "launcher/hosts.h"
#include "launcher/output.h"
#include "launcher/program.h"
#include "launcher/rank_output.h"
#include "launcher/spawn.h"
#include "ops/descriptor.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTerminateTime{5000};  // between SIGTERM and SIGKILL
constexpr milliseconds kDrainTime{2000};      // for output of processes that we could not kill
constexpr milliseconds kDismissTime{12'000};  // for agents, which need the two before
constexpr int kHostsPeriod = 1000;            // milliseconds between looks at silent hosts
constexpr uint32_t kTemplate = 0;             // of an elastic job's ranks, in an agent's task

struct RankProcess {
  int worker = 0;  // in an elastic job
  pid_t pid = -1;
  std::string host;  // empty: this machine
  bool running = false;
  int wait_status = 0;
  std::string lost;  // why its host is
  RankOutput output;

  explicit RankProcess(RankOutput made) : output(std::move(made)) {}
};

class Job {
 public:
  Job(const JobPlan& plan, const Clock& clock, Asks* asks, std::shared_ptr<Store> store)
      : plan_(plan), clock_(clock), agents_(ears(), plan.remote.start_timeout, clock) {
    if (plan.elastic)
      elastic_ = std::make_unique<Elastic>(*plan.elastic, *asks, std::move(store), hands(), clock);
    else
      for (size_t i = 0; i < plan.ranks.size(); ++i) ranks_.emplace_back(new_output());
  }

  int run() {
    sigset_t signals;
    ::sigemptyset(&signals);
    for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, signal);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (const Status status = start_all(); !status.ok()) {
      if (stops_ == 0) say(status.message());
      kill_all(SIGKILL);
      finish();
      return stops_ == 0 ? 1 : 128 + stopped_by_;
    }
    while (any_running() || (elastic_ && !elastic_->over() && stops_ == 0)) step();
    finish();
    return result();
  }

 private:
  enum class Stage { kRunning, kGrace, kTerminating, kKilled };

  bool any_running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank.running; });
  }

  Status start_all() {
    if (elastic_) elastic_->attend();
    for (size_t i = 0; i < ranks_.size() && !elastic_; ++i)
      if (const std::string& folder = plan_.ranks[i].output; !folder.empty())
        HORA_TRY(ranks_[i].output.open_files(folder));
    if (elastic_) return {};
    HORA_TRY(summon_hosts());
    std::map<std::string, uint32_t> started;  // on each host
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (plan_.prefix) ranks_[i].output.set_prefix(fmt::format("[{}] ", i));
      HORA_TRY(start(i, plan_.ranks[i], started[plan_.ranks[i].host]++, {}));
    }
    return {};
  }

  /// Brings all hosts as far as starting their ranks, so that what is wrong is told before any
  /// runs.
  Status summon_hosts() {
    std::map<std::string, agent_wire::Task> tasks;
    for (const RankCommand& rank : plan_.ranks) {
      if (rank.host.empty()) continue;
      agent_wire::Task& task = tasks.try_emplace(rank.host, task_of(0)).first->second;
      task.ranks.push_back({rank.arguments, rank.environment});
      ++task.sharers;
    }
    for (const auto& [host, task] : tasks) HORA_TRY(agents_.summon(route_to(host), task));
    while (!agents_.all_ready()) {
      step();
      HORA_TRY(refusal_);
      if (stops_ > 0) return Status(Code::kUnavailable, "stopped before the ranks began");
    }
    return {};
  }

  RemoteHost::Route route_to(const std::string& host) const {
    RemoteHost::Route route = plan_.remote.route;
    route.name = host;
    return route;
  }

  agent_wire::Task task_of(int sharers) const {
    return {plan_.remote.folder, plan_.remote.store, static_cast<uint32_t>(sharers), {}};
  }

  Agents::Hands ears() {
    Agents::Hands hands;
    hands.output = [this](int rank, bool error, std::string_view bytes) {
      ranks_[static_cast<size_t>(rank)].output.take(error, bytes);
    };
    hands.ended = [this](int rank, pid_t pid, int wait_status) {
      ranks_[static_cast<size_t>(rank)].pid = pid;
      ended(static_cast<size_t>(rank), wait_status);
    };
    hands.lost = [this](const Agents::Loss& loss) { lose(loss); };
    hands.keep = [this](const agent_wire::Record& record) { keep(record); };
    hands.say = [this](std::string_view text) { say(text); };
    return hands;
  }

  /// A host's ranks are lost with it; before they began, nothing begins.
  void lose(const Agents::Loss& loss) {
    if (!loss.was_ready && !elastic_)
      refusal_ = Status(Code::kUnavailable,
                        refusal_.ok() ? loss.text : refusal_.message() + "\n" + loss.text);
    if (supervises()) {
      say(loss.text);
      elastic_->host_lost(loss.host);
    }
    for (const int rank : loss.ranks) {
      ranks_[static_cast<size_t>(rank)].lost = loss.text;
      ended(static_cast<size_t>(rank), W_EXITCODE(1, 0));
    }
  }

  /// Only where ours go, whatever the name says.
  void keep(const agent_wire::Record& record) {
    const bool is_name = record.name.starts_with("rank") && record.name.size() < 64 &&
                         record.name.find('/') == record.name.npos;
    if (plan_.remote.records.empty() || !is_name) return;
    std::error_code ignored;
    std::filesystem::create_directories(plan_.remote.records, ignored);
    std::ofstream(plan_.remote.records + "/" + record.name, std::ios::binary) << record.content;
  }

  /// Agents end their ranks and tell the rest of what these wrote.
  void dismiss_hosts() {
    agents_.dismiss();
    const int before = stops_;
    Deadline deadline(clock_, kDismissTime);
    while (!agents_.all_gone() && !deadline.passed() && (stops_ == before || stops_ < 2)) {
      step();
      if (crowded()) deadline = Deadline(clock_, kDismissTime);
    }
  }

  /// Who reads what we print is slow: no more for now.
  bool crowded() const { return stdout_.full() || stderr_.full(); }

  Elastic::Hands hands() {
    Elastic::Hands hands;
    hands.start = [this](int worker, const Host& host) { return start_worker(worker, host); };
    hands.kill = [this](int worker, int signal) {
      for (size_t i = 0; i < ranks_.size(); ++i)
        if (ranks_[i].worker == worker) kill(i, signal);
    };
    hands.place = [this](int worker, int rank) {
      if (RankProcess* const process = process_of(worker); process && plan_.prefix)
        process->output.set_prefix(fmt::format("[{}] ", rank));
    };
    hands.say = [this](std::string_view text) { say(text); };
    return hands;
  }

  RankProcess* process_of(int worker) {
    const auto is_it = [worker](const RankProcess& rank) { return rank.worker == worker; };
    const auto found = std::find_if(ranks_.begin(), ranks_.end(), is_it);
    return found == ranks_.end() ? nullptr : &*found;
  }

  Status start_worker(int worker, const Host& host) {
    // Only the last words of the rank that may end the job are still of interest.
    for (RankProcess& rank : ranks_)
      if (!rank.running && rank.worker != elastic_->first_failed()) rank.output.forget_tail();
    const bool here = is_this_machine(host.name);
    RankProcess& rank = ranks_.emplace_back(new_output());
    rank.worker = worker;
    if (plan_.prefix) rank.output.set_prefix("[new] ");
    RankCommand command = plan_.ranks[here ? 0 : 1];
    if (!here) command.host = host.name;
    if (!command.output.empty())
      HORA_TRY(rank.output.open_files(fmt::format("{}.{}", command.output, worker)));
    if (!here) {
      agent_wire::Task task = task_of(host.slots);
      task.ranks.push_back({command.arguments, command.environment});
      HORA_TRY(agents_.summon(route_to(host.name), task));
    }
    std::vector<std::string> more = {fmt::format("HORA_WORKER={}", worker)};
    const bool given = variables_of(command.environment).count("HORA_ADDRESS") > 0;
    if (!given && !host.addresses.empty()) more.push_back("HORA_ADDRESS=" + host.addresses);
    return start(ranks_.size() - 1, command, kTemplate, more);
  }

  RankOutput new_output() {
    return {stdout_, stderr_, [this](const std::string& text) {
              if (!std::exchange(disk_failed_, true)) say(text);
            }};
  }

  /// `more` counts before the command's environment; `number` is among its host's.
  Status start(size_t index, const RankCommand& command, uint32_t number,
               std::vector<std::string> more) {
    RankProcess& rank = ranks_[index];
    rank.host = command.host;
    if (!rank.host.empty()) {
      rank.running = true;
      agents_.start(rank.host, static_cast<int>(index), number, std::move(more));
      return {};
    }
    more.insert(more.end(), command.environment.begin(), command.environment.end());
    // A rank is not the terminal's foreground process: reading from it would stop the rank.
    const bool reads = index == 0 && !elastic_ && ::isatty(STDIN_FILENO) == 0;
    const Descriptor in(reads ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                              : ::open("/dev/null", O_RDONLY | O_CLOEXEC));
    Result<Spawned> process =
        spawn(command.program, command.arguments, entries_of(variables_of(more)), in);
    if (!process.ok())
      return Status(Code::kUnavailable,
                    fmt::format("cannot start rank {}: {}", index, process.status().message()));
    rank.pid = process.value().pid;
    rank.output.read_from(std::move(process.value().out), std::move(process.value().err));
    rank.running = true;
    return {};
  }

  void say(std::string_view text) { stderr_.add("horarun: ", {std::string(text), false}); }

  /// Waits for something to happen and deals with it.
  void step() {
    std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}};
    for (const RankProcess& rank : ranks_) rank.output.add_to(entries);
    for (const Outlet* outlet : {&stdout_, &stderr_})
      if (outlet->pending()) entries.push_back({outlet->descriptor(), POLLOUT, 0});
    if (supervises()) elastic_->add_to(entries);
    agents_.add_to(entries, !crowded());
    if (::poll(entries.data(), entries.size(), poll_milliseconds()) > 0) {
      for (RankProcess& rank : ranks_) rank.output.attend();
      if (entries[0].revents) take_signals();
    }
    if (supervises()) elastic_->attend();
    agents_.attend(!crowded());
    if (elastic_ && elastic_->over()) end_elastic();
    stdout_.pump();
    stderr_.pump();
    if (deadline_ && deadline_->passed()) escalate();
  }

  /// Does the roster still decide, and not the job's end?
  bool supervises() const { return elastic_ && !elastic_->over() && stops_ == 0; }

  int poll_milliseconds() const {
    int least = -1;
    for (const int each :
         {deadline_ ? deadline_->poll_milliseconds() : -1,
          supervises() ? elastic_->poll_milliseconds() : -1, agents_.any() ? kHostsPeriod : -1})
      if (each >= 0) least = least < 0 ? each : std::min(least, each);
    return least;
  }

  /// Nobody is left who trains: those who wait or start are not needed, or cannot go on.
  void end_elastic() {
    if (stage_ != Stage::kRunning) return;
    for (size_t i = 0; i < ranks_.size() && !first_failed_; ++i)
      if (ranks_[i].worker == elastic_->first_failed()) first_failed_ = i;
    failed_before_stop_ = true;
    stage_ = Stage::kTerminating;
    deadline_.emplace(clock_, kTerminateTime);
    kill_all(SIGTERM);
  }

  void take_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      const int signal = static_cast<int>(info.ssi_signo);
      if (signal == SIGCHLD)
        reap();
      else
        stop(signal);
    }
  }

  /// The first request is passed on, so that programs can end in their own way; a second one, or a
  /// hang-up (our guard or the terminal is gone), does not wait for that.
  void stop(int signal) {
    const bool again = stops_++ > 0;
    if (!again) stopped_by_ = signal;
    if (again || signal == SIGHUP) {
      stage_ = Stage::kKilled;
      deadline_.reset();
      kill_all(SIGKILL);
    } else {
      kill_all(signal);
    }
  }

  void kill_all(int signal) {
    for (size_t i = 0; i < ranks_.size(); ++i) kill(i, signal);
  }

  void kill(size_t index, int signal) {
    const RankProcess& rank = ranks_[index];
    if (!rank.running) return;
    if (rank.host.empty())
      ::kill(-rank.pid, signal);
    else
      agents_.kill(static_cast<int>(index), signal);
  }

  void reap() {
    for (;;) {
      siginfo_t child{};
      // The process stays a zombie while its group is killed: its number cannot be reused yet.
      if (::waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) != 0 || child.si_pid == 0) return;
      const auto of_pid = [&](const RankProcess& rank) {
        return rank.host.empty() && rank.pid == child.si_pid;
      };
      const auto rank = std::find_if(ranks_.begin(), ranks_.end(), of_pid);
      const bool failed = child.si_code != CLD_EXITED || child.si_status != 0;
      // What a dead rank started (data loaders) holds its sockets, and would hide its death.
      if (rank != ranks_.end() && failed) ::kill(-rank->pid, SIGKILL);
      int wait_status = 0;
      ::waitpid(child.si_pid, &wait_status, 0);
      if (elastic_ && elastic_->reaped(child.si_pid, wait_status)) continue;
      if (agents_.reaped(child.si_pid, wait_status)) continue;
      if (rank == ranks_.end()) continue;  // an orphan of a rank, adopted
      ended(static_cast<size_t>(rank - ranks_.begin()), wait_status);
    }
  }

  void ended(size_t index, int wait_status) {
    RankProcess& rank = ranks_[index];
    const bool failed = wait_status != 0;
    rank.running = false;
    rank.wait_status = wait_status;
    if (elastic_) {
      if (!supervises()) return;
      if (failed && rank.lost.empty() && !elastic_->is_dismissed(rank.worker)) say(fate(index));
      elastic_->ended(rank.worker, !failed);
      return;
    }
    if (!failed || first_failed_) return;
    first_failed_ = index;
    failed_before_stop_ = stopped_by_ == 0;
    if (stage_ != Stage::kRunning) return;
    stage_ = Stage::kGrace;
    deadline_.emplace(clock_, plan_.grace);
  }

  void escalate() {
    deadline_.reset();
    if (stage_ == Stage::kGrace) {
      stage_ = Stage::kTerminating;
      deadline_.emplace(clock_, kTerminateTime);
      kill_all(SIGTERM);
    } else if (stage_ == Stage::kTerminating) {
      stage_ = Stage::kKilled;
      kill_all(SIGKILL);
    }
  }

  std::string name_of(size_t index) const {
    const RankProcess& process = ranks_[index];
    const std::string where = process.host.empty() ? "" : " on " + process.host;
    const int rank = elastic_ ? elastic_->rank_of(process.worker) : static_cast<int>(index);
    return rank < 0 ? fmt::format("a rank without a number yet{}", where)
                    : fmt::format("rank {}{}", rank, where);
  }

  std::string fate(size_t index) const {
    const RankProcess& rank = ranks_[index];
    const std::string who = name_of(index);
    if (!rank.lost.empty()) return fmt::format("{} was lost: {}", who, rank.lost);
    return fmt::format("{} (pid {}) {}", who, rank.pid, describe_end(rank.wait_status));
  }

  /// All ranks have ended: nothing of theirs may stay, and all they wrote goes out.
  void finish() {
    for (const RankProcess& rank : ranks_)
      if (rank.host.empty() && rank.pid > 0 && rank.running) ::kill(-rank.pid, SIGKILL);
    dismiss_hosts();
    kill_descendants(clock_);
    drain();
    if (first_failed_ && failed_before_stop_) report();
    // Ends when the reader has taken everything, has gone, or the user will not wait.
    while (stdout_.pending() || stderr_.pending()) {
      pollfd entries[3] = {{signals_.get(), POLLIN, 0},
                           {stdout_.pending() ? stdout_.descriptor() : -1, POLLOUT, 0},
                           {stderr_.pending() ? stderr_.descriptor() : -1, POLLOUT, 0}};
      ::poll(entries, std::size(entries), -1);
      const int before = stops_;
      if (entries[0].revents) take_signals();
      if (stops_ != before) return;
      stdout_.pump();
      stderr_.pump();
    }
  }

  void drain() {
    deadline_.emplace(clock_, kDrainTime);
    const auto open = [](const RankProcess& rank) { return rank.output.open(); };
    stage_ = Stage::kKilled;
    while (deadline_ && std::any_of(ranks_.begin(), ranks_.end(), open)) {
      if (crowded()) deadline_.emplace(clock_, kDrainTime);
      step();
    }
    for (RankProcess& rank : ranks_) rank.output.finish();
    deadline_.reset();
  }

  void report() {
    const auto& lines = ranks_[*first_failed_].output.tail().lines();
    const std::string what = fate(*first_failed_);
    const bool shown = ranks_.size() == 1 && plan_.ranks[0].output.empty();
    if (!shown && !lines.empty()) {
      say(fmt::format("{} failed first; its last {} lines of stderr:", name_of(*first_failed_),
                      lines.size()));
      for (const std::string& line : lines)
        stderr_.add(ranks_[*first_failed_].output.prefix(), {line, false});
    }
    say(what);
  }

  int result() const {
    if (stopped_by_ != 0) return 128 + stopped_by_;
    if (!first_failed_) return elastic_ && !elastic_->succeeded() ? 1 : 0;
    const int status = ranks_[*first_failed_].wait_status;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  const JobPlan& plan_;
  const Clock& clock_;
  Descriptor signals_;
  Outlet stdout_{STDOUT_FILENO}, stderr_{STDERR_FILENO};
  std::deque<RankProcess> ranks_;
  Agents agents_;
  Status refusal_;  // why a host cannot begin
  std::unique_ptr<Elastic> elastic_;
  Stage stage_ = Stage::kRunning;
  std::optional<Deadline> deadline_;
  std::optional<size_t> first_failed_;
  bool failed_before_stop_ = false;
  int stops_ = 0, stopped_by_ = 0;
  bool disk_failed_ = false;
};

}  // namespace

int run_job(const JobPlan& plan, const Clock& clock, Asks* asks, std::shared_ptr<Store> store) {
  return Job(plan, clock, asks, std::move(store)).run();
}

}  // namespace hora
