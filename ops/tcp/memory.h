#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "ops/backend.h"

namespace hora::tcp {

/// One operation's memory as one range of bytes, wherever its segments lie. Keeps its own memory
/// from operation to operation; borrows the segments'.
class Memory {
 public:
  void assign(std::span<const Segment> segments, size_t width);  ///< counts of `width` bytes each
  void assign(const std::byte* data, size_t bytes);
  size_t bytes() const { return bytes_; }

  /// Where bytes [begin, end) lie, as far as `room` allows; returns how many entries that takes.
  size_t describe(size_t begin, size_t end, std::span<iovec> room) const;

  /// Calls visit(data, bytes, at) for each contiguous piece of [begin, end); `at` counts from
  /// `begin`.
  template <class Visit>
  void visit(size_t begin, size_t end, Visit&& visit) const {
    for (size_t i = run_at(begin), at = begin; at < end; ++i) {
      const size_t stop = end < end_of(i) ? end : end_of(i);
      visit(runs_[i].data + (at - runs_[i].begin), stop - at, at - begin);
      at = stop;
    }
  }

 private:
  struct Run {
    std::byte* data;
    size_t begin;  ///< of the range
  };
  size_t run_at(size_t offset) const;
  size_t end_of(size_t run) const { return run + 1 < runs_.size() ? runs_[run + 1].begin : bytes_; }

  std::vector<Run> runs_;  ///< ascending, none empty
  size_t bytes_ = 0;
};

}  // namespace hora::tcp
