#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <boost/lockfree/stack.hpp>

#include "hora/engine.h"
#include "hora/request.h"
#include "runtime/vocabulary.h"

namespace hora {

struct Name;

/// Where a request stands, for the flight record. Times are the clock's; 0: not yet.
struct Flight {
  uint64_t number = 0;    ///< in order of submission on this rank; 0: the driver has not seen it
  int64_t agreed_at = 0;  ///< of its first slice
  uint64_t plan = 0;      ///< the bucket of its first slice
  uint32_t round = 0;     ///< how often this rank has submitted the name
};

/// One submitted request from submit() until its handle was waited for. Lives in an OperationPool
/// and is used again, with the capacity of its strings and vectors, so a steady state allocates
/// nothing.
///
/// Threads: the caller fills it before it enters the request queue; from then until completion it
/// is the driver's; afterwards the waiter's. `state` is the door between them. What is marked as
/// the driver's only is read by it whoever has the operation, so nobody else may even reset it.
struct Operation {
  static constexpr uint32_t kFree = 0, kPending = 1, kDone = 2;

  Request request;
  Submission submission;
  Name* name = nullptr;
  int64_t submitted_at = 0;
  int64_t taken_at = 0;     ///< when the driver took it up; driver only
  int64_t awaited_at = 0;   ///< when its caller began to wait, perhaps in turns; waiter only
  bool handed = false;      ///< some of its slices went to lanes; driver only
  bool all_handed = false;  ///< its last slice, too; driver only
  uint32_t running = 0;     ///< slices that lanes have not ended; driver only
  Flight flight;            ///< driver only

  Status status;  ///< from a lane's first failure on, and at the end
  Outcome outcome;

  std::atomic<uint32_t> state{kFree};   ///< a futex word
  std::atomic<uint32_t> sleepers{0};    ///< threads that sleep on `state`
  std::atomic<uint32_t> generation{1};  ///< distinguishes uses; part of the handle
  uint32_t index = 0;

  bool done() const { return state.load(std::memory_order_acquire) == kDone; }
  Handle handle() const {
    return uint64_t{generation.load(std::memory_order_relaxed)} << 32 | (index + 1);
  }

  /// Publishes `status` and `outcome`, forgets what is the driver's only, and wakes whoever waits.
  /// Once for each use. Driver.
  void complete();

  /// Sleeps until done() or until `nanoseconds` have passed or a signal came.
  void sleep(int64_t nanoseconds);
};

/// Every operation in flight, at stable addresses. Bounded: kLimit at once.
///
/// Threads: any.
class OperationPool {
 public:
  static constexpr uint32_t kLimit = 65'024, kChunk = 256;

  OperationPool();

  /// A free operation with a fresh handle, or null if kLimit are in flight.
  Operation* take();
  /// Gives it back; its handle is not valid any more.
  void put(Operation* operation);
  /// The operation that `handle` names, or null if it was waited for already.
  Operation* find(Handle handle);
  Operation& at(uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }
  size_t made() const { return made_.load(std::memory_order_acquire); }

 private:
  bool grow();

  boost::lockfree::stack<uint32_t, boost::lockfree::fixed_sized<true>> free_;
  std::array<std::unique_ptr<Operation[]>, kLimit / kChunk> chunks_;
  std::atomic<size_t> made_{0};
  std::mutex growing_;
};

}  // namespace hora
