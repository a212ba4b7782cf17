#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "hora/status.h"

namespace hora::gloo {

/// A thread that does one job at a time: Gloo blocks, a lane must not.
///
/// Threads: the lane's driver; the thread itself is "hora-gloo" in docs/threads.md.
class Worker {
 public:
  using Job = Status (*)(void* argument);

  /// `ring` is called after each job, from the thread.
  explicit Worker(std::function<void()> ring);

  /// Waits for the job in hand.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// The last job must have ended. `argument` is borrowed until done().
  void start(Job job, void* argument);
  bool done() const { return done_.load(std::memory_order_acquire); }
  Status take_outcome() { return std::move(outcome_); }  ///< once, when done()

 private:
  void run();

  const std::function<void()> ring_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Job job_ = nullptr;         // guarded by mutex_
  void* argument_ = nullptr;  // guarded by mutex_
  bool stop_ = false;         // guarded by mutex_
  Status outcome_;            // the thread's until done_
  std::atomic<bool> done_{true};
  std::thread thread_;  // last: it uses the others
};

}  // namespace hora::gloo
