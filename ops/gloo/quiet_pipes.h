#pragma once

#include <pthread.h>
#include <signal.h>

namespace hora::gloo {

/// While it lives, this thread and those that it starts get EPIPE instead of SIGPIPE: Gloo writes
/// to sockets whose other end may be gone, and the process's own handling of the signal is not ours
/// to change. A signal that came meanwhile stays pending, so a thread that goes on after this
/// object must not have written.
class QuietPipes {
 public:
  QuietPipes() {
    sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, &before_);
  }
  ~QuietPipes() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  QuietPipes(const QuietPipes&) = delete;
  QuietPipes& operator=(const QuietPipes&) = delete;

 private:
  sigset_t before_;
};

}  // namespace hora::gloo
