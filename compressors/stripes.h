#pragma once

#include <cstddef>
#include <cstdint>

namespace hora {

/// Who adds up which elements of a tensor in a recode, as a function of the tensor alone: buckets
/// and split tensors cannot change it. A tensor is cut into stripes of one length, a multiple of
/// the codec's granule; stripe k belongs to rank (k + id) mod ranks, so that small tensors do not
/// all fall to rank 0. Ranks own equally many stripes, up to one.
class Stripes {
 public:
  /// `count` elements of tensor `id` in all.
  Stripes(uint64_t id, size_t count, size_t granule, int ranks);

  size_t length() const { return length_; }
  int owner(uint64_t element) const;

  /// The end of the stripe that `element` lies in, at most `count`.
  uint64_t end(uint64_t element) const;

  /// Elements that `rank` owns. Its memory of second encodings has them side by side, ascending.
  size_t owned(int rank) const;

  /// Where an owner's memory has `element`.
  size_t slot(uint64_t element) const;

 private:
  static constexpr size_t kLongest = 32768;  ///< 128 KiB of float32: encoded and decoded in L2
  uint64_t id_;
  size_t count_, length_, ranks_;
};

}  // namespace hora
