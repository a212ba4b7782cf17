#include "compressors/stripes.h"

#include <algorithm>

namespace hora {
namespace {

size_t divide_up(size_t a, size_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Stripes::Stripes(uint64_t id, size_t count, size_t granule, int ranks)
    : id_(id), count_(count), ranks_(static_cast<size_t>(ranks)) {
  const size_t rounds = std::max<size_t>(1, divide_up(count, ranks_ * kLongest));
  length_ = divide_up(std::max<size_t>(1, divide_up(count, ranks_ * rounds)), granule) * granule;
}

int Stripes::owner(uint64_t element) const {
  return static_cast<int>((element / length_ + id_ % ranks_) % ranks_);
}

uint64_t Stripes::end(uint64_t element) const {
  return std::min<uint64_t>(count_, (element / length_ + 1) * length_);
}

size_t Stripes::owned(int rank) const {
  // Its stripes are `phase`, phase + ranks, phase + 2 ranks, ...
  const size_t phase = (static_cast<size_t>(rank) + ranks_ - id_ % ranks_) % ranks_;
  const size_t stripes = divide_up(count_, length_);
  if (phase >= stripes) return 0;
  const size_t mine = (stripes - phase - 1) / ranks_ + 1;
  const size_t last = phase + (mine - 1) * ranks_;
  return (mine - 1) * length_ + (std::min(count_, (last + 1) * length_) - last * length_);
}

size_t Stripes::slot(uint64_t element) const {
  return element / length_ / ranks_ * length_ + element % length_;
}

}  // namespace hora
