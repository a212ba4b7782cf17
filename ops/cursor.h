#pragma once

#include <algorithm>
#include <span>

#include "ops/backend.h"

namespace hora {

/// Walks through the concatenation of segments.
class Cursor {
 public:
  Cursor(std::span<const Segment> segments, size_t width) : segments_(segments), width_(width) {}

  /// Calls visit(data, count, index) for each contiguous piece of the next `count` elements;
  /// `index` counts from where this call began.
  template <class Visit>
  void take(size_t count, Visit&& visit) {
    for (size_t index = 0; index < count;) {
      const Segment& segment = segments_[current_];
      const size_t piece = std::min(count - index, segment.count - inside_);
      if (piece > 0) visit(segment.data + inside_ * width_, piece, index);
      index += piece;
      inside_ += piece;
      if (inside_ < segment.count) continue;
      inside_ = 0;
      ++current_;
    }
  }

 private:
  std::span<const Segment> segments_;
  size_t width_;  ///< bytes of an element
  size_t current_ = 0, inside_ = 0;
};

inline size_t count_in(std::span<const Segment> segments) {
  size_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  return count;
}

}  // namespace hora
