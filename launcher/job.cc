#include "launcher/job.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "hora/status.h"
#include "launcher/guard.h"
#include "launcher/output.h"
#include "launcher/spawn.h"
#include "ops/descriptor.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTerminateTime{5000};  // between SIGTERM and SIGKILL
constexpr milliseconds kDrainTime{2000};      // for output of processes that we could not kill
constexpr milliseconds kDismissTime{12'000};  // for agents, which need the two before
constexpr int kHostsPeriod = 1000;            // milliseconds between looks at silent hosts

/// One of a rank's two output pipes.
struct Stream {
  Descriptor pipe;
  LineSplitter splitter;
  Outlet* outlet = nullptr;
  Descriptor file;  ///< takes the bytes instead of the outlet
};

struct RankProcess {
  int worker = 0;  // in an elastic job
  pid_t pid = -1;
  int host = -1;        // of Job::hosts_; -1: this machine
  uint32_t number = 0;  // among those of its host
  bool running = false;
  int wait_status = 0;
  std::string lost;  // why its host is
  std::string prefix;
  Stream out, err;
  Tail tail;  // of stderr
};

struct HostState {
  std::unique_ptr<RemoteHost> connection;
  bool ready = false, buried = false;
};

class Job {
 public:
  Job(const JobPlan& plan, const Clock& clock, Asks* asks, std::shared_ptr<Store> store)
      : plan_(plan), clock_(clock) {
    if (plan.elastic)
      elastic_ = std::make_unique<Elastic>(*plan.elastic, *asks, std::move(store), hands(), clock);
    else
      ranks_.resize(plan.ranks.size());
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
      HORA_TRY(open_files(i, plan_.ranks[i].output));
    HORA_TRY(summon_hosts());
    for (size_t i = 0; i < ranks_.size() && !elastic_; ++i) {
      if (plan_.prefix) ranks_[i].prefix = fmt::format("[{}] ", i);
      if (ranks_[i].host < 0)
        HORA_TRY(start(i, plan_.ranks[i]));
      else
        ranks_[i].running = true;
    }
    for (const auto& host : hosts_) host.connection->send(agent_wire::Go{});
    return {};
  }

  /// Brings all hosts as far as starting their ranks, so that what is wrong is told before any
  /// runs.
  Status summon_hosts() {
    for (const RemoteHost::Route& route : plan_.hosts) {
      auto connection = RemoteHost::start(route, clock_);
      if (!connection.ok())
        return Status(Code::kUnavailable,
                      fmt::format("host {}: {}", route.name, connection.status().message()));
      hosts_.push_back({std::move(connection).value(), false, false});
    }
    for (size_t i = 0; i < ranks_.size() && !elastic_; ++i) {
      RankProcess& rank = ranks_[i];
      rank.host = plan_.ranks[i].host;
      rank.out.outlet = &stdout_;
      rank.err.outlet = &stderr_;
      const auto here = [&](const RankProcess& other) { return other.host == rank.host; };
      rank.number = static_cast<uint32_t>(
          std::count_if(ranks_.begin(), ranks_.begin() + static_cast<std::ptrdiff_t>(i), here));
    }
    const Deadline deadline(clock_, plan_.remote.start_timeout);
    const auto is_ready = [](const HostState& host) { return host.ready; };
    while (!std::all_of(hosts_.begin(), hosts_.end(), is_ready)) {
      step();
      HORA_TRY(refusal_);
      if (stops_ > 0) return Status(Code::kUnavailable, "stopped before the ranks began");
      if (deadline.passed()) return not_ready();
    }
    return {};
  }

  Status not_ready() const {
    std::string text;
    for (size_t i = 0; i < hosts_.size(); ++i)
      if (!hosts_[i].ready)
        text += fmt::format("{}host {}: no answer from `{} {}` within {} s (--start-timeout)",
                            text.empty() ? "" : "\n", plan_.hosts[i].name, plan_.hosts[i].shell,
                            plan_.hosts[i].name, plan_.remote.start_timeout.count() / 1000.0);
    return Status(Code::kTimeout, text);
  }

  void attend_hosts() {
    for (size_t i = 0; i < hosts_.size(); ++i) {
      HostState& host = hosts_[i];
      std::vector<agent_wire::Message> messages;
      host.connection->attend(!crowded(), messages);
      for (const agent_wire::Message& message : messages) hear(i, message);
      for (const std::string& remark : host.connection->take_remarks())
        if (host.ready) say(fmt::format("{}: {}", host.connection->name(), remark));
      if (host.connection->gone() && !std::exchange(host.buried, true))
        lose(i, host.connection->obituary());
    }
  }

  void hear(size_t index, const agent_wire::Message& message) {
    if (const auto* const hello = std::get_if<agent_wire::Hello>(&message))
      greet(index, *hello);
    else if (const auto* const refused = std::get_if<agent_wire::Refused>(&message))
      lose(index, refused->reason);
    else if (std::holds_alternative<agent_wire::Ready>(message))
      hosts_[index].ready = true;
    else if (const auto* const output = std::get_if<agent_wire::Output>(&message))
      take_output(index, *output);
    else if (const auto* const end = std::get_if<agent_wire::Ended>(&message))
      take_end(index, *end);
    else if (const auto* const record = std::get_if<agent_wire::Record>(&message))
      keep(*record);
  }

  void greet(size_t index, const agent_wire::Hello& hello) {
    if (hello.protocol != agent_wire::kProtocol || hello.version != HORA_VERSION)
      return lose(index,
                  fmt::format("it has Hora {}, and this machine {}: install the same on both",
                              hello.version, HORA_VERSION));
    agent_wire::Task task{plan_.remote.folder, plan_.remote.store, {}};
    for (const RankCommand& rank : plan_.ranks)
      if (rank.host == static_cast<int>(index))
        task.ranks.push_back({rank.arguments, rank.environment});
    hosts_[index].connection->send(task);
  }

  /// A host's ranks are lost with it; before they began, nothing begins.
  void lose(size_t index, const std::string& why) {
    const std::string text = fmt::format("host {}: {}", hosts_[index].connection->name(), why);
    if (!hosts_[index].ready && refusal_.ok()) refusal_ = Status(Code::kUnavailable, text);
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (ranks_[i].host != static_cast<int>(index) || !ranks_[i].running) continue;
      ranks_[i].lost = text;
      ended(i, W_EXITCODE(1, 0));
    }
  }

  RankProcess* rank_on(size_t host, uint32_t number) {
    const auto is_it = [&](const RankProcess& rank) {
      return rank.host == static_cast<int>(host) && rank.number == number;
    };
    const auto found = std::find_if(ranks_.begin(), ranks_.end(), is_it);
    return found == ranks_.end() ? nullptr : &*found;
  }

  void take_output(size_t host, const agent_wire::Output& output) {
    RankProcess* const rank = rank_on(host, output.rank);
    if (rank != nullptr) take(output.error != 0 ? rank->err : rank->out, output.bytes);
  }

  void take_end(size_t host, const agent_wire::Ended& end) {
    RankProcess* const rank = rank_on(host, end.rank);
    if (rank == nullptr || !rank->running) return;
    rank->pid = static_cast<pid_t>(end.pid);
    for (size_t i = 0; i < ranks_.size(); ++i)
      if (&ranks_[i] == rank) ended(i, static_cast<int>(end.wait_status));
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
    for (const HostState& host : hosts_) host.connection->send(agent_wire::Finish{});
    const auto is_gone = [](const HostState& host) { return host.buried; };
    const int before = stops_;
    Deadline deadline(clock_, kDismissTime);
    while (!std::all_of(hosts_.begin(), hosts_.end(), is_gone) && !deadline.passed() &&
           (stops_ == before || stops_ < 2)) {
      step();
      if (crowded()) deadline = Deadline(clock_, kDismissTime);
    }
  }

  /// Who reads what we print is slow: no more for now.
  bool crowded() const { return stdout_.full() || stderr_.full(); }

  Elastic::Hands hands() {
    Elastic::Hands hands;
    hands.start = [this](int worker) { return start_worker(worker); };
    hands.kill = [this](int worker, int signal) {
      if (const RankProcess* const rank = process_of(worker); rank && rank->running)
        ::kill(-rank->pid, signal);
    };
    hands.place = [this](int worker, int rank) {
      if (RankProcess* const process = process_of(worker); process && plan_.prefix)
        process->prefix = fmt::format("[{}] ", rank);
    };
    hands.say = [this](std::string_view text) { say(text); };
    return hands;
  }

  RankProcess* process_of(int worker) {
    const auto is_it = [worker](const RankProcess& rank) { return rank.worker == worker; };
    const auto found = std::find_if(ranks_.begin(), ranks_.end(), is_it);
    return found == ranks_.end() ? nullptr : &*found;
  }

  Status start_worker(int worker) {
    // Only the last words of the rank that may end the job are still of interest.
    for (RankProcess& rank : ranks_)
      if (!rank.running && rank.worker != elastic_->first_failed()) rank.tail = {};
    RankProcess& rank = ranks_.emplace_back();
    rank.worker = worker;
    if (plan_.prefix) rank.prefix = "[new] ";
    RankCommand command = plan_.ranks[0];
    command.environment.push_back(fmt::format("HORA_WORKER={}", worker));
    if (!command.output.empty()) command.output += fmt::format(".{}", worker);
    HORA_TRY(open_files(ranks_.size() - 1, command.output));
    return start(ranks_.size() - 1, command);
  }

  Status open_files(size_t index, const std::string& folder) {
    if (folder.empty()) return {};
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    RankProcess& rank = ranks_[index];
    for (const auto& [stream, name] : {std::pair(&rank.out, "stdout"), {&rank.err, "stderr"}}) {
      const std::string path = folder + "/" + name;
      stream->file.reset(
          ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0666));
      if (!stream->file.valid())
        return Status(Code::kUnavailable, fmt::format("--output-dir: cannot write {}: {}", path,
                                                      ::strerrordesc_np(errno)));
    }
    return {};
  }

  /// A disk takes its time but never waits for anybody.
  void save(Stream& stream, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(stream.file.get(), bytes.data(), bytes.size());
      if (written >= 0) {
        bytes.remove_prefix(static_cast<size_t>(written));
      } else if (errno != EINTR) {
        if (!std::exchange(disk_failed_, true))
          say(fmt::format("--output-dir: the output is not complete: {}",
                          ::strerrordesc_np(errno)));
        return;
      }
    }
  }

  Status start(size_t index, const RankCommand& command) {
    RankProcess& rank = ranks_[index];
    rank.out.outlet = &stdout_;
    rank.err.outlet = &stderr_;
    // A rank is not the terminal's foreground process: reading from it would stop the rank.
    const bool reads = index == 0 && !elastic_ && ::isatty(STDIN_FILENO) == 0;
    const Descriptor in(reads ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                              : ::open("/dev/null", O_RDONLY | O_CLOEXEC));
    Result<Spawned> process = spawn(command.program, command.arguments, command.environment, in);
    if (!process.ok())
      return Status(Code::kUnavailable,
                    fmt::format("cannot start rank {}: {}", index, process.status().message()));
    rank.pid = process.value().pid;
    rank.out.pipe = std::move(process.value().out);
    rank.err.pipe = std::move(process.value().err);
    rank.running = true;
    return {};
  }

  void say(std::string_view text) { stderr_.add("horarun: ", {std::string(text), false}); }

  /// Waits for something to happen and deals with it.
  void step() {
    std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}};
    std::vector<Stream*> streams;
    for (RankProcess& rank : ranks_) {
      for (Stream* stream : {&rank.out, &rank.err}) {
        if (!stream->pipe.valid() || stream->outlet->full()) continue;
        entries.push_back({stream->pipe.get(), POLLIN, 0});
        streams.push_back(stream);
      }
    }
    for (const Outlet* outlet : {&stdout_, &stderr_})
      if (outlet->pending()) entries.push_back({outlet->descriptor(), POLLOUT, 0});
    if (supervises()) elastic_->add_to(entries);
    for (const HostState& host : hosts_) host.connection->add_to(entries, !crowded());
    if (::poll(entries.data(), entries.size(), poll_milliseconds()) > 0) {
      for (size_t i = 0; i < streams.size(); ++i)
        if (entries[i + 1].revents) read(*streams[i]);
      if (entries[0].revents) take_signals();
    }
    if (supervises()) elastic_->attend();
    attend_hosts();
    if (elastic_ && elastic_->over()) end_elastic();
    stdout_.pump();
    stderr_.pump();
    if (deadline_ && deadline_->passed()) escalate();
  }

  /// Does the roster still decide, and not the job's end?
  bool supervises() const { return elastic_ && !elastic_->over() && stops_ == 0; }

  int poll_milliseconds() const {
    const int ours = deadline_ ? deadline_->poll_milliseconds() : -1;
    const int theirs = supervises()     ? elastic_->poll_milliseconds()
                       : hosts_.empty() ? -1
                                        : kHostsPeriod;
    return ours < 0 || theirs < 0 ? std::max(ours, theirs) : std::min(ours, theirs);
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

  RankProcess& owner_of(const Stream& stream) {
    const auto owns = [&](const RankProcess& rank) {
      return &rank.out == &stream || &rank.err == &stream;
    };
    return *std::find_if(ranks_.begin(), ranks_.end(), owns);
  }

  void read(Stream& stream) {
    const ssize_t count = ::read(stream.pipe.get(), buffer_.data(), buffer_.size());
    if (count > 0) {
      take(stream, {buffer_.data(), static_cast<size_t>(count)});
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      std::vector<Line> lines;
      stream.splitter.finish(lines);
      stream.pipe.reset();
      pass_on(stream, lines);
    }
  }

  void take(Stream& stream, std::string_view bytes) {
    std::vector<Line> lines;
    if (stream.file.valid()) save(stream, bytes);
    stream.splitter.feed(bytes, lines);
    pass_on(stream, lines);
  }

  void pass_on(Stream& stream, const std::vector<Line>& lines) {
    RankProcess& rank = owner_of(stream);
    for (const Line& line : lines) {
      if (!stream.file.valid()) stream.outlet->add(rank.prefix, line);
      if (&stream == &rank.err) rank.tail.add(line);
    }
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
    for (const RankProcess& rank : ranks_) {
      if (!rank.running) continue;
      if (rank.host < 0)
        ::kill(-rank.pid, signal);
      else
        host_of(rank).send(agent_wire::Kill{rank.number, static_cast<uint32_t>(signal)});
    }
    for (const HostState& host : hosts_) host.connection->flush();
  }

  RemoteHost& host_of(const RankProcess& rank) const {
    return *hosts_[static_cast<size_t>(rank.host)].connection;
  }

  void reap() {
    for (;;) {
      siginfo_t child{};
      // The process stays a zombie while its group is killed: its number cannot be reused yet.
      if (::waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) != 0 || child.si_pid == 0) return;
      const auto of_pid = [&](const RankProcess& rank) {
        return rank.host < 0 && rank.pid == child.si_pid;
      };
      const auto rank = std::find_if(ranks_.begin(), ranks_.end(), of_pid);
      const bool failed = child.si_code != CLD_EXITED || child.si_status != 0;
      // What a dead rank started (data loaders) holds its sockets, and would hide its death.
      if (rank != ranks_.end() && failed) ::kill(-rank->pid, SIGKILL);
      int wait_status = 0;
      ::waitpid(child.si_pid, &wait_status, 0);
      if (elastic_ && elastic_->reaped(child.si_pid, wait_status)) continue;
      for (const HostState& host : hosts_)
        if (host.connection->pid() == child.si_pid) host.connection->reaped(wait_status);
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
      if (failed && !elastic_->is_dismissed(rank.worker)) say(fate(index));
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
    if (ranks_[index].host >= 0)
      return fmt::format("rank {} on {}", index, host_of(ranks_[index]).name());
    if (!elastic_) return fmt::format("rank {}", index);
    const int rank = elastic_->rank_of(ranks_[index].worker);
    return rank < 0 ? "a rank without a number yet" : fmt::format("rank {}", rank);
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
      if (rank.host < 0 && rank.pid > 0 && rank.running) ::kill(-rank.pid, SIGKILL);
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
    const auto open = [](const RankProcess& rank) {
      return rank.out.pipe.valid() || rank.err.pipe.valid();
    };
    stage_ = Stage::kKilled;
    while (deadline_ && std::any_of(ranks_.begin(), ranks_.end(), open)) {
      if (crowded()) deadline_.emplace(clock_, kDrainTime);
      step();
    }
    for (RankProcess& rank : ranks_) {
      for (Stream* stream : {&rank.out, &rank.err}) {
        std::vector<Line> lines;
        stream->splitter.finish(lines);
        if (!lines.empty()) pass_on(*stream, lines);
      }
    }
    deadline_.reset();
  }

  void report() {
    const auto& lines = ranks_[*first_failed_].tail.lines();
    const std::string what = fate(*first_failed_);
    const bool shown = ranks_.size() == 1 && plan_.ranks[0].output.empty();
    if (!shown && !lines.empty()) {
      say(fmt::format("{} failed first; its last {} lines of stderr:", name_of(*first_failed_),
                      lines.size()));
      for (const std::string& line : lines)
        stderr_.add(ranks_[*first_failed_].prefix, {line, false});
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
  std::deque<RankProcess> ranks_;  // streams are found by address
  std::vector<HostState> hosts_;   // as plan_ has them
  Status refusal_;                 // why a host cannot begin
  std::unique_ptr<Elastic> elastic_;
  Stage stage_ = Stage::kRunning;
  std::optional<Deadline> deadline_;
  std::optional<size_t> first_failed_;
  bool failed_before_stop_ = false;
  int stops_ = 0, stopped_by_ = 0;
  bool disk_failed_ = false;
  std::array<char, 65536> buffer_;
};

}  // namespace

int run_job(const JobPlan& plan, const Clock& clock, Asks* asks, std::shared_ptr<Store> store) {
  return Job(plan, clock, asks, std::move(store)).run();
}

}  // namespace hora
