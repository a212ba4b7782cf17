#include "launcher/guard.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

/// The fourth field of /proc/PID/stat, after a name in brackets that may itself hold anything.
bool is_our_child(const std::string& stat_path) {
  std::ifstream file(stat_path);
  std::string stat;
  std::getline(file, stat);
  const size_t name_end = stat.rfind(')');
  if (name_end == stat.npos || name_end + 4 >= stat.size()) return false;
  const size_t begin = name_end + 4;  // ") S 123 ..."
  const auto parent =
      parse_integer(std::string_view(stat).substr(begin, stat.find(' ', begin) - begin));
  return parent == static_cast<uint64_t>(::getpid());
}

std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const auto pid = parse_integer(entry.path().filename().string());
    if (pid && is_our_child(entry.path().string() + "/stat"))
      found.push_back(static_cast<pid_t>(*pid));
  }
  return found;
}

sigset_t watched_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, signal);
  return set;
}

std::string make_directory() {
  // Short, whatever TMPDIR says: a socket's path has 107 characters at most.
  std::string path = "/tmp/hora-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return {};
  return path;
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

int watch(pid_t child) {
  const sigset_t signals = watched_signals();
  for (;;) {
    int wait_status = 0;
    if (::waitpid(child, &wait_status, WNOHANG) == child) return status_of(wait_status);
    const int signal = ::sigwaitinfo(&signals, nullptr);
    if (signal > 0 && signal != SIGCHLD) ::kill(child, signal);
  }
}

}  // namespace

void kill_descendants(const Clock& clock) {
  const Deadline deadline(clock, std::chrono::seconds(3));
  sigset_t ended;
  ::sigemptyset(&ended);
  ::sigaddset(&ended, SIGCHLD);
  constexpr timespec kAWhile{0, 20'000'000};
  while (!deadline.passed()) {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const std::vector<pid_t> found = children();
    if (found.empty()) return;
    for (const pid_t child : found) ::kill(child, SIGKILL);
    ::sigtimedwait(&ended, nullptr, &kAWhile);
  }
}

int run_guarded(const Clock& clock, const std::function<int(const std::string&)>& work) {
  const std::string directory = make_directory();
  if (directory.empty()) {
    fmt::print(stderr, "horarun: cannot make a directory in /tmp: {}\n", std::strerror(errno));
    return 1;
  }
  const sigset_t signals = watched_signals();
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t guard = ::getpid();
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::prctl(PR_SET_PDEATHSIG, SIGHUP);
    const int result = ::getppid() == guard ? work(directory) : 128 + SIGHUP;
    // The guard removes it too; but it may be the one that was killed.
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
    std::fflush(nullptr);
    ::_exit(result);
  }
  int result = 1;
  if (child < 0)
    fmt::print(stderr, "horarun: cannot start a process: {}\n", std::strerror(errno));
  else
    result = watch(child);
  kill_descendants(clock);
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return result;
}

}  // namespace hora
