#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "fusion/signature.h"

namespace hora {

/// How ready work is cut into buckets. Only the root's values matter: its decisions travel in the
/// log.
struct BucketOptions {
  uint64_t bucket_bytes = 8 << 20;    ///< fused up to this, split above
  uint64_t express_bytes = 64 << 10;  ///< up to this work takes lane 0, never behind bulk
  /// Issued and unfinished: so much on the express lane, and so much on the others together.
  uint64_t window_bytes = 32 << 20;
  uint8_t lanes = 3;  ///< 1: everything takes lane 0; buckets alternate between the rest
};

/// One agreed operation, in the bucketer's terms.
struct ReadyWork {
  ItemId id = 0;
  SetId set = 0;
  uint32_t kind = 0;  ///< work of equal kind may share a collective; 0 travels alone
  int16_t priority = 0;
  uint64_t count = 0;  ///< elements
  uint32_t bytes_each = 1;
  uint32_t granule = 0;  ///< splits fall on its multiples; 0: never split

  uint64_t bytes() const { return count * bytes_each; }
};

/// A contiguous run of one operation's elements.
struct BucketPiece {
  ItemId id = 0;
  uint64_t first = 0, count = 0;
  bool last = false;
  friend bool operator==(const BucketPiece&, const BucketPiece&) = default;
};

struct Bucket {
  SetId set = 0;
  uint8_t lane = 0;  ///< 0: the express lane
  uint64_t bytes = 0;
  std::vector<BucketPiece> pieces;
};

/// Turns ready work into fused, split and prioritized buckets. Pure: no clock, ranks or randomness.
///
/// Work is taken by priority, then by age. What is larger than a bucket gives one bucketful and
/// keeps its place, so that urgent work goes between the pieces; what is smaller is fused with
/// later work of its kind. Buckets take the lanes in turn, so that one begins while another ends.
class Bucketer {
 public:
  static constexpr size_t kMaxPieces = 65'536;

  explicit Bucketer(const BucketOptions& options) : options_(options) {}

  /// The work that an operation of this signature is. Remembers its kind.
  ReadyWork describe(ItemId id, SetId set, const Signature& signature, int16_t priority);

  /// Forgets kinds; nothing described before may be added afterwards.
  void forget_kinds() { kinds_.clear(); }

  void add(const ReadyWork& work);
  bool empty() const { return queue_.empty(); }

  /// Fills `bucket` with the next one for which there is room, asking room(set, express, bytes) at
  /// most once for the express lane and once for the rest: what finds none is not overtaken by its
  /// like. False if there is none.
  template <class Room>
  bool next(Room&& room, Bucket& bucket);

  /// Groups the work of one step, in the order in which it became ready, into buckets to be kept.
  /// Work that must travel alone, or would do so, is in none.
  static std::vector<std::vector<ItemId>> stable_buckets(std::span<const ReadyWork> order,
                                                         const BucketOptions& options);

 private:
  struct Queued {
    ReadyWork work;
    uint64_t order = 0, first = 0;
    bool express = false;
    uint64_t bytes_left() const { return (work.count - first) * work.bytes_each; }
  };
  void take(size_t lead, Bucket& bucket);
  uint64_t piece_of(const ReadyWork& work) const;
  bool is_express(const ReadyWork& work) const;
  uint8_t next_lane();

  const BucketOptions options_;
  std::vector<Queued> queue_;  ///< by priority, highest first, then by order
  uint64_t order_ = 0;
  uint8_t turn_ = 0;  ///< of the lanes but the express lane
  std::unordered_map<std::string, uint32_t> kinds_;
};

template <class Room>
bool Bucketer::next(Room&& room, Bucket& bucket) {
  bool full[2] = {};
  for (size_t lead = 0; lead < queue_.size() && !(full[0] && full[1]); ++lead) {
    const Queued& queued = queue_[lead];
    if (full[queued.express]) continue;
    const uint64_t bytes = std::min(queued.bytes_left(), options_.bucket_bytes);
    if (room(queued.work.set, queued.express, bytes)) {
      take(lead, bucket);
      return true;
    }
    full[queued.express] = true;
  }
  return false;
}

}  // namespace hora
