#include "launcher/discovery.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/wait.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

constexpr size_t kMostOutput = size_t{1} << 20;
constexpr uint64_t kMostSlots = 4096;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

bool is_this_host(std::string_view name) {
  char own[256] = {};
  ::gethostname(own, sizeof(own) - 1);
  return name == "localhost" || name == "127.0.0.1" || name == own;
}

int64_t nanoseconds(std::chrono::milliseconds time) {
  return std::chrono::nanoseconds(time).count();
}

}  // namespace

Result<int> parse_slots(std::string_view text, int slots_per_host) {
  uint64_t slots = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + 1));
    if (line.empty()) continue;
    const size_t colon = line.find(':');
    const std::string_view host = line.substr(0, colon);
    const auto count = colon == line.npos ? std::optional<uint64_t>(slots_per_host)
                                          : parse_integer(line.substr(colon + 1));
    if (host.empty() || !count || *count > kMostSlots)
      return Status(Code::kInvalidArgument,
                    fmt::format("\"{:.100}\" is not host:slots, such as localhost:4", line));
    if (!is_this_host(host))
      return Status(
          Code::kInvalidArgument,
          fmt::format("host {:.100}: jobs run on one host only; expected localhost", host));
    slots = std::min(slots + *count, kMostSlots);
  }
  return static_cast<int>(slots);
}

Discovery::Discovery(Options options, const Clock& clock)
    : options_(std::move(options)), clock_(clock), wake_at_(clock.now()) {}

Discovery::~Discovery() {
  if (pid_ > 0) ::kill(-pid_, SIGKILL);
}

void Discovery::start() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    found_ = Status(Code::kUnavailable, fmt::format("no pipe: {}", std::strerror(errno)));
    wake_at_ = clock_.now() + nanoseconds(options_.period);
    return;
  }
  pipe_.reset(ends[0]);
  const Descriptor write_end(ends[1]);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::string shell = "sh", flag = "-c", script = options_.script;
  char* const arguments[] = {shell.data(), flag.data(), script.data(), nullptr};
  output_.clear();
  too_slow_ = false;
  const int error = ::posix_spawn(&pid_, "/bin/sh", &files, &attributes, arguments, ::environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  wake_at_ = clock_.now() + nanoseconds(options_.limit);
  if (error == 0) return;
  pid_ = -1;
  pipe_.reset();
  found_ = Status(Code::kUnavailable, fmt::format("cannot be started: {}", std::strerror(error)));
  wake_at_ = clock_.now() + nanoseconds(options_.period);
}

void Discovery::read() {
  char bytes[4096];
  while (pipe_.valid()) {
    const ssize_t got = ::read(pipe_.get(), bytes, sizeof(bytes));
    if (got > 0 && output_.size() < kMostOutput)
      output_.append(bytes, static_cast<size_t>(got));
    else if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
      pipe_.reset();
    else if (got < 0)
      return;
  }
}

void Discovery::attend() {
  read();
  if (clock_.now() < wake_at_) return;
  if (pid_ < 0) return start();
  too_slow_ = true;
  ::kill(-pid_, SIGKILL);
  wake_at_ = clock_.now() + nanoseconds(options_.limit);
}

bool Discovery::ended(pid_t pid, int wait_status) {
  if (pid != pid_) return false;
  ::kill(-pid_, SIGKILL);  // what it has left behind
  read();
  pipe_.reset();
  pid_ = -1;
  wake_at_ = clock_.now() + nanoseconds(options_.period);
  if (too_slow_)
    found_ = Status(Code::kTimeout,
                    fmt::format("has not ended within {} s", options_.limit.count() / 1000));
  else if (!WIFEXITED(wait_status))
    found_ =
        Status(Code::kUnavailable, fmt::format("was killed by signal {}", WTERMSIG(wait_status)));
  else if (WEXITSTATUS(wait_status) != 0)
    found_ =
        Status(Code::kUnavailable, fmt::format("ended with code {}", WEXITSTATUS(wait_status)));
  else
    found_ = parse_slots(output_, options_.slots_per_host);
  return true;
}

std::optional<Result<int>> Discovery::take() {
  return std::exchange(found_, std::nullopt);
}

}  // namespace hora
