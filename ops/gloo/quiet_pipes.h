#pragma once

#include <pthread.h>
#include <signal.h>
#include <time.h>

namespace hora::gloo {

/// While it lives, this thread and those that it starts get EPIPE instead of SIGPIPE: Gloo writes
/// to sockets whose other end may be gone, and the process's own handling of the signal is not ours
/// to change. A signal that came to this thread meanwhile is taken away at the end.
class QuietPipes {
 public:
  QuietPipes() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~QuietPipes() {
    const timespec at_once{};
    while (::sigtimedwait(&pipe_, nullptr, &at_once) == SIGPIPE) continue;
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  QuietPipes(const QuietPipes&) = delete;
  QuietPipes& operator=(const QuietPipes&) = delete;

 private:
  sigset_t pipe_, before_;
};

}  // namespace hora::gloo
