#include "compressors/stripes.h"

namespace hora {
namespace {

size_t divide_up(size_t a, size_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Shard shard_of(uint64_t id, size_t count, size_t granule, int columns, int column) {
  if (column >= columns) return {0, 0};
  const auto all = static_cast<size_t>(columns);
  const size_t each = divide_up(std::max<size_t>(1, divide_up(count, all)), granule) * granule;
  const size_t number = (static_cast<size_t>(column) + all - id % all) % all;
  return Shard{number * each, each}.within(count);
}

Stripes::Stripes(uint64_t id, const Shard& shard, size_t granule, int ranks)
    : id_(id), first_(shard.first), count_(shard.count), ranks_(static_cast<size_t>(ranks)) {
  const size_t rounds = std::max<size_t>(1, divide_up(count_, ranks_ * kLongest));
  length_ = divide_up(std::max<size_t>(1, divide_up(count_, ranks_ * rounds)), granule) * granule;
}

int Stripes::owner(uint64_t element) const {
  return static_cast<int>(((element - first_) / length_ + id_ % ranks_) % ranks_);
}

uint64_t Stripes::end(uint64_t element) const {
  return first_ + std::min<uint64_t>(count_, ((element - first_) / length_ + 1) * length_);
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
  const size_t at = element - first_;
  return at / length_ / ranks_ * length_ + at % length_;
}

}  // namespace hora
