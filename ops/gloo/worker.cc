#include "ops/gloo/worker.h"

#include <pthread.h>

#include <utility>

#include "ops/float_mode.h"
#include "ops/gloo/quiet_pipes.h"

namespace hora::gloo {

Worker::Worker(std::function<void()> ring) : ring_(std::move(ring)), thread_([this] { run(); }) {}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Worker::start(Job job, void* argument) {
  HORA_CHECK(done(), "a Gloo communicator was given two operations at once");
  done_.store(false, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    job_ = job;
    argument_ = argument;
  }
  wake_.notify_one();
}

void Worker::run() {
  ::pthread_setname_np(::pthread_self(), "hora-gloo");
  const QuietPipes quiet;
  const FloatMode mode;  // a thread inherits its maker's, and reduces here
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || job_; });
    if (!job_) return;
    const Job job = std::exchange(job_, nullptr);
    void* const argument = argument_;
    lock.unlock();
    outcome_ = job(argument);
    done_.store(true, std::memory_order_release);
    ring_();
    lock.lock();
  }
}

}  // namespace hora::gloo
