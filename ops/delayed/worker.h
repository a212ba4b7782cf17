#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "ops/bell.h"
#include "ops/lane.h"

namespace hora::delayed {

/// A thread with a lane of its own that runs one ticket at a time for another thread's lane.
///
/// Threads: submit(), cancel(), finished() and outcome() belong to the driver of the other lane.
class Worker {
 public:
  Worker(int lane, uint64_t seed, Bell bell);
  ~Worker();  ///< aborts what still runs
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Lane& lane() { return lane_; }  ///< to make the ticket with; only the worker drives it
  void submit(Ticket ticket);
  void cancel(Status why);  ///< aborts the worker's lane; it finishes soon
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  Status outcome() { return std::move(outcome_); }  ///< once, after finished()

 private:
  void run();
  void drive(Ticket ticket);
  void dawdle();

  Lane lane_;      ///< worker only
  uint64_t seed_;  ///< worker only
  const Bell bell_;
  Status outcome_;  ///< the worker's until finished_
  std::atomic<bool> finished_ = false, cancelled_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  Ticket next_;                           ///< guarded by mutex_
  bool has_next_ = false, stop_ = false;  ///< guarded by mutex_
  Status why_;                            ///< guarded by mutex_, until cancelled_

  std::thread thread_;  ///< last: it uses all the others
};

}  // namespace hora::delayed
