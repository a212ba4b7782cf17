#include "launcher/discovery.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/wait.h>

namespace hora {
namespace {

constexpr size_t kMostOutput = size_t{1} << 20;

int64_t nanoseconds(std::chrono::milliseconds time) {
  return std::chrono::nanoseconds(time).count();
}

}  // namespace

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
    found_ = parse_discovered(output_, options_.slots_per_host);
  return true;
}

std::optional<Result<std::vector<Host>>> Discovery::take() {
  return std::exchange(found_, std::nullopt);
}

}  // namespace hora
