#include "ops/tcp/memory.h"

#include <algorithm>

namespace hora::tcp {

void Memory::assign(std::span<const Segment> segments, size_t width) {
  runs_.clear();
  bytes_ = 0;
  for (const Segment& segment : segments) {
    if (segment.count == 0) continue;
    const bool joins =
        !runs_.empty() && runs_.back().data + (bytes_ - runs_.back().begin) == segment.data;
    if (!joins) runs_.push_back({segment.data, bytes_});
    bytes_ += segment.count * width;
  }
}

void Memory::assign(const std::byte* data, size_t bytes) {
  runs_.clear();
  bytes_ = bytes;
  // Only what is sent is const, and nobody writes there.
  if (bytes > 0) runs_.push_back({const_cast<std::byte*>(data), 0});
}

size_t Memory::run_at(size_t offset) const {
  const auto after = std::upper_bound(runs_.begin(), runs_.end(), offset,
                                      [](size_t at, const Run& run) { return at < run.begin; });
  return static_cast<size_t>(after - runs_.begin()) - (after == runs_.begin() ? 0 : 1);
}

size_t Memory::describe(size_t begin, size_t end, std::span<iovec> room) const {
  size_t used = 0;
  for (size_t i = run_at(begin); begin < end && used < room.size(); ++i) {
    const size_t stop = std::min(end, end_of(i));
    room[used++] = {runs_[i].data + (begin - runs_[i].begin), stop - begin};
    begin = stop;
  }
  return used;
}

}  // namespace hora::tcp
