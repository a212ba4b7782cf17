#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "compressors/codec.h"

namespace hora {

/// The shape of a butterfly over any number of ranks. Rank numbers are read in mixed radix, the
/// leading digit first: in layer i a rank meets the `degree` ranks whose numbers differ from its
/// own in digit i only, `stride` apart. After layer i, what it has is of `stride` owners, its own
/// number among them; after the last, of itself.
///
/// Degrees are those wanted, if their product is the number of ranks; else the ranks' factors of at
/// most kWidest, or primes. Nothing else has a say, so that a sum is added up in one order whatever
/// else is in its bucket.
///
/// Zhao & Canny, "Kylix: A Sparse Allreduce for Commodity Clusters", ICPP 2014.
class Butterfly {
 public:
  struct Layer {
    int degree = 1, stride = 1;
    int first(int rank) const { return rank / (degree * stride) * degree * stride; }
    int member(int rank, int m) const { return first(rank) + rank % stride + m * stride; }
  };

  explicit Butterfly(int ranks, std::span<const int> wanted = {});
  int layers() const { return layers_; }
  const Layer& layer(int i) const { return list_[static_cast<size_t>(i)]; }

  static constexpr int kWidest = 8;  ///< more messages at once than this gain little
  static constexpr int kMost = 14;   ///< layers, so that a bucket's tags suffice

 private:
  void choose_degrees(int ranks);

  int layers_ = 0;
  std::array<Layer, kMost> list_;
};

/// How a sparse sum of one tensor, or a run of it, is merged by `ranks` ranks: who owns which
/// elements, and how many entries its messages have room for. Functions of the codec, the count and
/// the ranks, so that no size is ever sent.
///
/// Elements are given to owners in short runs, in an order that hashes of the tensor and the place
/// turn: where gradients are large they are so side by side, or in one column, and no owner may
/// have them all. A `place` counts an owner's elements side by side, owner after owner.
///
/// On the way in, a message has room for kUneven times an even share of what a rank sends; on the
/// way out an owner has room for its share of what kUnion ranks send. So the bytes through a rank
/// do not grow with the ranks. Where elements themselves are no longer than entries, they travel.
class Merging {
 public:
  /// Room in a message about `length` places.
  struct Room {
    size_t length = 0, most = 0;
    bool dense = false;  ///< all places' values, and no numbers
    size_t bytes() const { return sizeof(uint32_t) + (dense ? 4 * length : 8 * most); }
  };

  Merging(const Codec& codec, size_t count, int ranks, std::span<const int> degrees = {});

  const Butterfly& butterfly() const { return butterfly_; }
  size_t length() const { return length_; }  ///< places of one owner
  uint32_t place(uint32_t element) const;
  size_t element(uint32_t place) const;  ///< count or more: none has this place

  /// To each member of layer i.
  Room in(int layer) const { return in_[static_cast<size_t>(layer)]; }
  /// From an owner to all.
  Room out() const { return out_; }
  /// Entries that a rank holds before layer i, or before the way out, at most.
  size_t held(int layer) const { return held_[static_cast<size_t>(layer)]; }

  /// Bytes that every rank sends.
  uint64_t bytes() const;

  static constexpr size_t kUneven = 2, kUnion = 4;
  static constexpr size_t kSpare = 4;  ///< entries more, for small shares are more uneven

 private:
  static constexpr uint32_t kRun = 32;
  uint32_t turned(uint32_t group) const;

  const Butterfly butterfly_;
  const uint32_t ranks_, salt_;
  size_t length_;
  std::array<Room, Butterfly::kMost> in_;
  Room out_;
  std::array<size_t, Butterfly::kMost + 1> held_ = {};
};

}  // namespace hora
