#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace hora {

/// A run of a tensor's elements that some ranks add up among themselves; the standard is all of
/// them.
struct Shard {
  uint64_t first = 0;
  size_t count = ~size_t{0};

  uint64_t end() const { return first + count; }
  /// What of it a tensor of so many elements has.
  Shard within(size_t elements) const {
    const uint64_t from = std::min<uint64_t>(first, elements);
    return {from, std::min<size_t>(count, elements - from)};
  }
  bool operator==(const Shard&) const = default;
};

/// Where compression is between hosts only, member c of each host has a tensor's shard number c,
/// turned by the tensor's id, so that small tensors do not all fall to the first. Edges are
/// multiples of the granule. A column that is beyond `columns` has nothing.
Shard shard_of(uint64_t id, size_t count, size_t granule, int columns, int column);

/// Who adds up which elements of a tensor in a recode, as a function of the tensor alone: buckets
/// and split tensors cannot change it. A tensor is cut into stripes of one length, a multiple of
/// the codec's granule; stripe k belongs to rank (k + id) mod ranks, so that small tensors do not
/// all fall to rank 0. Ranks own equally many stripes, up to one.
class Stripes {
 public:
  /// `count` elements of tensor `id` in all.
  Stripes(uint64_t id, size_t count, size_t granule, int ranks)
      : Stripes(id, Shard{0, count}, granule, ranks) {}
  /// The same for a shard, as if it were the tensor; elements still count from the tensor's first.
  Stripes(uint64_t id, const Shard& shard, size_t granule, int ranks);

  size_t length() const { return length_; }
  int owner(uint64_t element) const;

  /// The end of the stripe that `element` lies in, or of all.
  uint64_t end(uint64_t element) const;

  /// Elements that `rank` owns. Its memory of second encodings has them side by side, ascending.
  size_t owned(int rank) const;

  /// Where an owner's memory has `element`.
  size_t slot(uint64_t element) const;

 private:
  static constexpr size_t kLongest = 32768;  ///< 128 KiB of float32: encoded and decoded in L2
  uint64_t id_, first_;
  size_t count_, length_, ranks_;
};

}  // namespace hora
