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
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "hora/status.h"
#include "launcher/guard.h"
#include "launcher/output.h"
#include "ops/descriptor.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTerminateTime{5000};  // between SIGTERM and SIGKILL
constexpr milliseconds kDrainTime{2000};      // for output of processes that we could not kill

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
  bool running = false;
  int wait_status = 0;
  std::string prefix;
  Stream out, err;
  Tail tail;  // of stderr
};

/// null-terminated, for execve(). Borrows the strings.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

/// After fork() in a process with threads: only calls that are safe in a signal handler.
[[noreturn]] void become(const RankCommand& command, char* const* arguments, char* const* variables,
                         pid_t parent, int in, int out, int err) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  ::signal(SIGPIPE, SIG_DFL);  // ignored here, and that would be inherited
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(command.program.c_str(), arguments, variables);
  const char* const reason = ::strerrordesc_np(errno);
  for (const char* text : {"horarun: cannot execute ", command.program.c_str(), ": ",
                           reason ? reason : "unknown error", "\n"}) {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, ::strlen(text));
  }
  ::_exit(126);
}

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
      say(status.message());
      kill_all(SIGKILL);
      finish();
      return 1;
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
    for (size_t i = 0; i < ranks_.size() && !elastic_; ++i) {
      if (plan_.prefix) ranks_[i].prefix = fmt::format("[{}] ", i);
      HORA_TRY(start(i, plan_.ranks[i]));
    }
    return {};
  }

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
    int out[2], err[2];
    if (::pipe2(out, O_CLOEXEC) != 0) return cannot_start(index);
    rank.out.pipe.reset(out[0]);
    const Descriptor out_end(out[1]);
    if (::pipe2(err, O_CLOEXEC) != 0) return cannot_start(index);
    rank.err.pipe.reset(err[0]);
    const Descriptor err_end(err[1]);
    for (const int end : {out[0], err[0]}) ::fcntl(end, F_SETFL, O_NONBLOCK);
    rank.out.outlet = &stdout_;
    rank.err.outlet = &stderr_;
    // A rank is not the terminal's foreground process: reading from it would stop the rank.
    const bool reads = index == 0 && !elastic_ && ::isatty(STDIN_FILENO) == 0;
    const Descriptor in(reads ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                              : ::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const auto arguments = pointers(command.arguments), variables = pointers(command.environment);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) return cannot_start(index);
    if (pid == 0)
      become(command, arguments.data(), variables.data(), parent, in.get(), out[1], err[1]);
    ::setpgid(pid, pid);  // whoever of us comes first
    rank.pid = pid;
    rank.running = true;
    return {};
  }

  static Status cannot_start(size_t index) {
    return Status(Code::kUnavailable,
                  fmt::format("cannot start rank {}: {}", index, ::strerrordesc_np(errno)));
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
    if (::poll(entries.data(), entries.size(), poll_milliseconds()) > 0) {
      for (size_t i = 0; i < streams.size(); ++i)
        if (entries[i + 1].revents) read(*streams[i]);
      if (entries[0].revents) take_signals();
    }
    if (supervises()) elastic_->attend();
    if (elastic_ && elastic_->over()) end_elastic();
    stdout_.pump();
    stderr_.pump();
    if (deadline_ && deadline_->passed()) escalate();
  }

  /// Does the roster still decide, and not the job's end?
  bool supervises() const { return elastic_ && !elastic_->over() && stops_ == 0; }

  int poll_milliseconds() const {
    const int ours = deadline_ ? deadline_->poll_milliseconds() : -1;
    const int theirs = supervises() ? elastic_->poll_milliseconds() : -1;
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
    std::vector<Line> lines;
    const ssize_t count = ::read(stream.pipe.get(), buffer_.data(), buffer_.size());
    if (count > 0) {
      const std::string_view bytes(buffer_.data(), static_cast<size_t>(count));
      if (stream.file.valid()) save(stream, bytes);
      stream.splitter.feed(bytes, lines);
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      stream.splitter.finish(lines);
      stream.pipe.reset();
    }
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
    for (const RankProcess& rank : ranks_)
      if (rank.running) ::kill(-rank.pid, signal);
  }

  void reap() {
    for (;;) {
      siginfo_t ended{};
      // The process stays a zombie while its group is killed: its number cannot be reused yet.
      if (::waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid == 0) return;
      const auto of_pid = [&](const RankProcess& rank) { return rank.pid == ended.si_pid; };
      const auto rank = std::find_if(ranks_.begin(), ranks_.end(), of_pid);
      const bool failed = ended.si_code != CLD_EXITED || ended.si_status != 0;
      // What a dead rank started (data loaders) holds its sockets, and would hide its death.
      if (rank != ranks_.end() && failed) ::kill(-rank->pid, SIGKILL);
      int wait_status = 0;
      ::waitpid(ended.si_pid, &wait_status, 0);
      if (elastic_ && elastic_->reaped(ended.si_pid, wait_status)) continue;
      if (rank == ranks_.end()) continue;  // an orphan of a rank, adopted
      rank->running = false;
      rank->wait_status = wait_status;
      const auto index = static_cast<size_t>(rank - ranks_.begin());
      if (elastic_) {
        if (!supervises()) continue;
        if (failed && !elastic_->is_dismissed(rank->worker)) say(fate(index));
        elastic_->ended(rank->worker, !failed);
        continue;
      }
      if (failed && !first_failed_) {
        first_failed_ = index;
        failed_before_stop_ = stopped_by_ == 0;
        if (stage_ == Stage::kRunning) {
          stage_ = Stage::kGrace;
          deadline_.emplace(clock_, plan_.grace);
        }
      }
    }
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
    if (!elastic_) return fmt::format("rank {}", index);
    const int rank = elastic_->rank_of(ranks_[index].worker);
    return rank < 0 ? "a rank without a number yet" : fmt::format("rank {}", rank);
  }

  std::string fate(size_t index) const {
    const RankProcess& rank = ranks_[index];
    const std::string who = name_of(index);
    if (WIFEXITED(rank.wait_status))
      return fmt::format("{} (pid {}) exited with code {}", who, rank.pid,
                         WEXITSTATUS(rank.wait_status));
    const int signal = WTERMSIG(rank.wait_status);
    const char* const name = ::sigdescr_np(signal);
    return fmt::format("{} (pid {}) was killed by signal {} ({})", who, rank.pid, signal,
                       name ? name : "unknown");
  }

  /// All ranks have ended: nothing of theirs may stay, and all they wrote goes out.
  void finish() {
    for (const RankProcess& rank : ranks_)
      if (rank.pid > 0 && rank.running) ::kill(-rank.pid, SIGKILL);
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
      const bool slow_reader = stdout_.full() || stderr_.full();
      if (slow_reader) deadline_.emplace(clock_, kDrainTime);
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
