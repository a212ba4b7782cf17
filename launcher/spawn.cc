#include "launcher/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace hora {
namespace {

/// null-terminated, for execve(). Borrows the strings.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

/// After fork() in a process with threads: only calls that are safe in a signal handler.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* variables,
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
  ::execve(program, arguments, variables);
  const char* const reason = ::strerrordesc_np(errno);
  for (const char* text :
       {"horarun: cannot execute ", program, ": ", reason ? reason : "unknown error", "\n"}) {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, ::strlen(text));
  }
  ::_exit(126);
}

Status refused() {
  return Status(Code::kUnavailable, ::strerrordesc_np(errno));
}

}  // namespace

Result<Spawned> spawn(const std::string& program, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment, const Descriptor& in) {
  Spawned process;
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0) return refused();
  process.out.reset(out[0]);
  const Descriptor out_end(out[1]);
  if (::pipe2(err, O_CLOEXEC) != 0) return refused();
  process.err.reset(err[0]);
  const Descriptor err_end(err[1]);
  for (const int end : {out[0], err[0]}) ::fcntl(end, F_SETFL, O_NONBLOCK);
  const auto words = pointers(arguments), variables = pointers(environment);
  const pid_t parent = ::getpid();
  process.pid = ::fork();
  if (process.pid < 0) return refused();
  if (process.pid == 0)
    become(program.c_str(), words.data(), variables.data(), parent, in.get(), out[1], err[1]);
  ::setpgid(process.pid, process.pid);  // whoever of us comes first
  return process;
}

std::string describe_end(int wait_status) {
  if (WIFEXITED(wait_status)) return fmt::format("exited with code {}", WEXITSTATUS(wait_status));
  const int signal = WTERMSIG(wait_status);
  const char* const name = ::sigdescr_np(signal);
  return fmt::format("was killed by signal {} ({})", signal, name ? name : "unknown");
}

}  // namespace hora
