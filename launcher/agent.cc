#include "launcher/agent.h"

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
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "hora/config.h"
#include "launcher/agent_wire.h"
#include "launcher/cores.h"
#include "launcher/doctor.h"
#include "launcher/guard.h"
#include "launcher/host_probe.h"
#include "launcher/program.h"
#include "launcher/spawn.h"
#include "ops/descriptor.h"
#include "runtime/clock.h"
#include "runtime/store.h"

namespace hora {
namespace {

using namespace agent_wire;
using std::chrono::milliseconds;

constexpr milliseconds kAliveTime{2000};
constexpr milliseconds kSilence{60'000};  // of horarun: it says something each kAliveTime
constexpr milliseconds kDrainTime{2000};  // for output of processes that could not be killed
constexpr milliseconds kFlushTime{5000};  // for the last words to leave
constexpr milliseconds kOneAddressTime{1500}, kReachTime{10'000};
constexpr size_t kQueue = size_t{1} << 20;

struct RankProcess {
  pid_t pid = -1;
  bool running = false;
  Descriptor out, err;
};

class Agent {
 public:
  Agent(const Clock& clock, std::string directory)
      : clock_(clock),
        directory_(std::move(directory)),
        alive_(clock, kAliveTime),
        silence_(clock, kSilence) {}

  int run() {
    sigset_t signals;
    ::sigemptyset(&signals);
    for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, signal);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    for (const int end : {STDIN_FILENO, STDOUT_FILENO})
      ::fcntl(end, F_SETFL, ::fcntl(end, F_GETFL) | O_NONBLOCK);
    queue_ = kGreeting;
    send(Hello{kProtocol, HORA_VERSION});
    while (!over_) step();
    finish();
    return 0;
  }

 private:
  void send(const Message& message) { queue_ += encode(message); }

  void step() {
    std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    entries.push_back({queue_.empty() ? -1 : STDOUT_FILENO, POLLOUT, 0});
    std::vector<std::pair<size_t, bool>> streams;
    for (size_t i = 0; i < ranks_.size() && queue_.size() < kQueue; ++i) {
      for (const bool error : {false, true}) {
        const Descriptor& pipe = error ? ranks_[i].err : ranks_[i].out;
        if (!pipe.valid()) continue;
        entries.push_back({pipe.get(), POLLIN, 0});
        streams.emplace_back(i, error);
      }
    }
    if (::poll(entries.data(), entries.size(), alive_.poll_milliseconds()) > 0) {
      for (size_t i = 0; i < streams.size(); ++i)
        if (entries[i + 3].revents) read(streams[i].first, streams[i].second);
      if (entries[0].revents) take_signals();
      if (entries[1].revents) listen();
    }
    if (alive_.passed()) {
      if (queue_.empty()) send(Alive{});
      alive_ = Deadline(clock_, kAliveTime);
    }
    if (silence_.passed()) over_ = true;
    flush();
  }

  void flush() {
    while (!queue_.empty()) {
      const ssize_t written = ::write(STDOUT_FILENO, queue_.data(), queue_.size());
      if (written > 0) {
        queue_.erase(0, static_cast<size_t>(written));
      } else if (written < 0 && errno == EAGAIN) {
        return;
      } else if (written < 0 && errno != EINTR) {
        over_ = gone_ = true;
        return;
      }
    }
  }

  void read(size_t index, bool error) {
    Descriptor& pipe = error ? ranks_[index].err : ranks_[index].out;
    const ssize_t count = ::read(pipe.get(), buffer_.data(), buffer_.size());
    if (count > 0)
      send(Output{static_cast<uint32_t>(index),
                  error ? uint8_t{1} : uint8_t{0},
                  {buffer_.data(), static_cast<size_t>(count)}});
    else if (count == 0 || (errno != EAGAIN && errno != EINTR))
      pipe.reset();
  }

  void take_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo == SIGCHLD)
        reap();
      else
        over_ = true;
    }
  }

  void listen() {
    const ssize_t count = ::read(STDIN_FILENO, buffer_.data(), buffer_.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
      over_ = gone_ = true;
      return;
    }
    silence_ = Deadline(clock_, kSilence);
    inbox_.feed({buffer_.data(), static_cast<size_t>(count)});
    while (!over_) {
      const auto message = inbox_.next();
      if (!message.ok()) {
        refuse(message.status());
        return;
      }
      if (!message.value()) return;
      obey(*message.value());
    }
  }

  void obey(const Message& message) {
    if (const auto* const task = std::get_if<Task>(&message)) {
      if (const Status status = prepare(*task); status.ok())
        send(Ready{});
      else
        refuse(status);
    } else if (const auto* const begin = std::get_if<Start>(&message)) {
      if (const Status status = start(*begin); !status.ok()) refuse(status);
    } else if (const auto* const kill = std::get_if<Kill>(&message)) {
      if (kill->rank < ranks_.size() && ranks_[kill->rank].running)
        ::kill(-ranks_[kill->rank].pid, static_cast<int>(kill->signal));
    } else if (std::holds_alternative<Finish>(message)) {
      over_ = true;
    } else {
      answer_doctor(message);
    }
  }

  void answer_doctor(const Message& message) {
    if (const auto* const inspect = std::get_if<Inspect>(&message)) {
      auto probe = HostProbe::open({inspect->job, inspect->secret});
      if (!probe.ok()) return refuse(probe.status());
      probe_ = std::move(probe).value();
      send(Inspected{probe_->address(), static_cast<uint32_t>(allowed_cores()), lacks_here()});
    } else if (const auto* const reach = std::get_if<Reach>(&message); reach && probe_) {
      send(probe_->reach(*reach, clock_));
    } else if (std::holds_alternative<AskTime>(message)) {
      send(Time{static_cast<uint64_t>(unix_time())});
    }
  }

  void refuse(const Status& status) {
    send(Refused{status.message()});
    over_ = true;
  }

  /// All that can go wrong before a rank runs.
  Status prepare(const Task& task) {
    task_ = task;
    std::error_code error;
    std::filesystem::current_path(task.folder, error);
    if (error)
      return Status(Code::kUnavailable,
                    fmt::format("working directory {}: {}", task.folder, error.message()));
    HORA_TRY(find_store());
    for (RankTask& rank : task_.ranks) {
      if (rank.arguments.empty()) return Status(Code::kInvalidArgument, "no program");
      rank.environment = environment_of(rank);
      Result<std::string> program = find_program(rank.arguments[0], rank.environment);
      HORA_TRY(program.status());
      programs_.push_back(std::move(program).value());
    }
    return {};
  }

  /// Of the addresses that horarun has, one that answers from here, so that no rank has to try
  /// others; one of them may lead to a machine that swallows packets.
  Status find_store() {
    if (task_.store.empty() || task_.ranks.empty()) return {};
    constexpr std::string_view kScheme = "tcp://";
    const auto variables = variables_of(task_.ranks[0].environment);
    const auto variable = [&](const char* name) {
      const auto found = variables.find(name);
      return found == variables.end() ? std::string() : found->second;
    };
    const StoreKey key{variable("HORA_JOB"), variable("HORA_SECRET"), variable("HORA_TLS") == "1"};
    std::istringstream addresses(task_.store.substr(kScheme.size()));
    for (std::string address; std::getline(addresses, address, ',');) {
      address = std::string(kScheme) + address;
      if (!connect_store(address, kOneAddressTime, key).ok()) continue;
      task_.store = address;
      return {};
    }
    const Status status = connect_store(task_.store, kReachTime, key).status();
    return status.ok() ? status
                       : Status(status.code(), "cannot reach horarun: " + status.message());
  }

  std::vector<std::string> environment_of(const RankTask& rank) {
    auto variables = variables_of(rank.environment);
    if (!task_.store.empty()) variables["HORA_STORE"] = task_.store;
    const int share = allowed_cores() / static_cast<int>(std::clamp(task_.sharers, 1U, 4096U));
    variables.try_emplace("OMP_NUM_THREADS", std::to_string(std::max(1, share)));
    if (variables.try_emplace("HORA_FLIGHT_DIR", directory_ + "/records").second)
      collects_records_ = true;
    // A setting that only this machine's login has would make its ranks differ from the others.
    for (auto& [name, value] : variables_of(environment()))
      if (!name.starts_with("HORA_")) variables.try_emplace(name, value);
    return entries_of(variables);
  }

  Status start(const Start& order) {
    if (order.task >= programs_.size())
      return Status(Code::kInvalidArgument, fmt::format("there is no rank {}", order.task));
    const Descriptor nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const RankTask& task = task_.ranks[order.task];
    auto variables = variables_of(task.environment);
    for (const auto& [name, value] : variables_of(order.environment)) variables[name] = value;
    Result<Spawned> process =
        spawn(programs_[order.task], task.arguments, entries_of(variables), nothing);
    HORA_TRY(process.status());
    RankProcess& rank = ranks_.emplace_back();
    rank.pid = process.value().pid;
    rank.running = true;
    rank.out = std::move(process.value().out);
    rank.err = std::move(process.value().err);
    return {};
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
      if (rank == ranks_.end()) continue;  // an orphan of a rank, adopted
      rank->running = false;
      failed_ = failed_ || failed;
      send(Ended{static_cast<uint32_t>(rank - ranks_.begin()), static_cast<uint32_t>(rank->pid),
                 static_cast<uint32_t>(wait_status)});
    }
  }

  /// Nothing of the ranks may stay, and all they wrote goes out, unless nobody listens.
  void finish() {
    for (const RankProcess& rank : ranks_)
      if (rank.pid > 0 && rank.running) ::kill(-rank.pid, SIGKILL);
    kill_descendants(clock_);
    if (gone_) return;
    const Deadline drain(clock_, kDrainTime);
    for (size_t i = 0; i < ranks_.size(); ++i) {
      for (const bool error : {false, true}) {
        const Descriptor& pipe = error ? ranks_[i].err : ranks_[i].out;
        while (pipe.valid() && !drain.passed()) {
          pollfd entry{pipe.get(), POLLIN, 0};
          if (::poll(&entry, 1, drain.poll_milliseconds()) > 0) read(i, error);
        }
      }
    }
    if (failed_ && collects_records_) send_records();
    const Deadline deadline(clock_, kFlushTime);
    while (!queue_.empty() && !deadline.passed() && !gone_) {
      pollfd entry{STDOUT_FILENO, POLLOUT, 0};
      if (::poll(&entry, 1, deadline.poll_milliseconds()) > 0) flush();
    }
  }

  void send_records() {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(directory_ + "/records", error)) {
      if (!entry.is_regular_file(error) || entry.file_size(error) > kMaxMessage / 2) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      send(Record{entry.path().filename().string(),
                  {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()}});
    }
  }

  const Clock& clock_;
  const std::string directory_;
  Deadline alive_, silence_;
  Descriptor signals_;
  Inbox inbox_{false};
  std::string queue_;
  Task task_;
  std::vector<std::string> programs_;
  std::deque<RankProcess> ranks_;
  std::unique_ptr<HostProbe> probe_;
  bool over_ = false;
  bool gone_ = false;  // nobody reads what we send
  bool failed_ = false, collects_records_ = false;
  std::array<char, 65536> buffer_;
};

}  // namespace

int agent_main() {
  const SystemClock clock;
  return run_guarded(clock,
                     [&](const std::string& directory) { return Agent(clock, directory).run(); });
}

}  // namespace hora
