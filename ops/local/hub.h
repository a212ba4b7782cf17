#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "ops/backend.h"

namespace hora::local {

/// What a member lends to the others for one operation.
struct Loan {
  std::span<const Segment> segments = {};
  const std::byte* input = nullptr;
  std::span<const size_t> parts = {};  ///< of `input`, for an alltoall
};

/// One rank's place on one lane. The three words hold an operation's ticket number: its tag + 1, so
/// that 0 is none. Written by its rank only.
///
/// `loan` may be read by members of the operation `posted` until they have set `done` to it.
struct alignas(64) Seat {
  static constexpr uint64_t kWithdrawn = ~uint64_t{0};
  std::atomic<uint64_t> posted = 0;   ///< the loan is for this operation; kWithdrawn after an abort
  std::atomic<uint64_t> working = 0;  ///< about to touch, or touching, the loans of this operation
  std::atomic<uint64_t> done = 0;     ///< has touched its last loan of this operation
  Loan loan;
};

class Hub {
 public:
  explicit Hub(int size) : size_(size) {}
  int size() const { return size_; }

  /// The seats of all ranks on `lane`; they stay where they are.
  Seat* seats(int lane);

 private:
  const int size_;
  std::mutex mutex_;
  std::map<int, std::unique_ptr<Seat[]>> lanes_;  ///< guarded by mutex_
};

}  // namespace hora::local
