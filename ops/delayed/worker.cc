#include "ops/delayed/worker.h"

#include <utility>

namespace hora::delayed {

Worker::Worker(int lane, uint64_t seed, Bell bell)
    : lane_(lane), seed_(seed), bell_(bell), thread_([this] { run(); }) {}

Worker::~Worker() {
  cancel({Code::kShutdown, "delayed: the communicator is gone"});
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Worker::submit(Ticket ticket) {
  finished_.store(false, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(ticket);
    has_next_ = true;
  }
  changed_.notify_one();
}

void Worker::cancel(Status why) {
  const std::lock_guard lock(mutex_);
  if (cancelled_.load(std::memory_order_relaxed)) return;
  why_ = std::move(why);
  cancelled_.store(true, std::memory_order_release);
}

void Worker::run() {
  while (true) {
    Ticket ticket;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return has_next_ || stop_; });
      if (!has_next_) return;
      has_next_ = false;
      ticket = std::move(next_);
    }
    drive(std::move(ticket));
    finished_.store(true, std::memory_order_release);
    bell_.ring();
  }
}

void Worker::drive(Ticket ticket) {
  dawdle();
  lane_.start(std::move(ticket));
  while (!lane_.idle()) {
    if (cancelled_.load(std::memory_order_acquire) && !lane_.aborted()) lane_.abort(why_);
    if (!lane_.progress()) std::this_thread::yield();
  }
  outcome_ = lane_.outcome();
  dawdle();
}

// One draw in eight is long, so that operations overtake each other across lanes.
void Worker::dawdle() {
  seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
  const uint64_t draw = seed_ >> 33;
  const uint64_t turns = draw % 8 == 0 ? draw / 8 % 64 : draw / 8 % 4;
  for (uint64_t i = 0; i < turns; ++i) std::this_thread::yield();
}

}  // namespace hora::delayed
