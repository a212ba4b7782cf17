#pragma once

#include <algorithm>
#include <vector>

#include "runtime/tree.h"
#include "runtime/vocabulary.h"

namespace hora {

/// When this rank last heard from and spoke to each neighbor in the control tree.
class Neighbors {
 public:
  struct Neighbor {
    Rank rank = 0;
    Time heard = 0, sent = 0;
  };

  /// Who has never spoken may still be starting, held up by those who are really lost: their own
  /// neighbors, who have as long as `patience` less, are to name them first.
  Neighbors(const Position& at, Time now, Time patience) : parent_(at.parent), last_step_(now) {
    for (const Rank child : at.children) all_.push_back({child, now + patience, now});
    if (at.parent >= 0) all_.push_back({at.parent, now + patience, now});
  }

  /// Null if `rank` is no neighbor.
  Neighbor* find(Rank rank) {
    const size_t slot = slot_of(rank);
    if (slot > 0) return &all_[slot - 1];
    return rank == parent_ && parent_ >= 0 ? &all_.back() : nullptr;
  }

  /// The child's slot, or 0 if `rank` is no child.
  size_t slot_of(Rank rank) const {
    const auto end = all_.end() - (parent_ >= 0 ? 1 : 0);
    const auto it =
        std::lower_bound(all_.begin(), end, rank,
                         [](const Neighbor& each, Rank wanted) { return each.rank < wanted; });
    return it != end && it->rank == rank ? static_cast<size_t>(it - all_.begin()) + 1 : 0;
  }

  std::vector<Neighbor>& all() { return all_; }

  /// A step begins. If the last one is longer ago than `patience`, this rank itself was stopped,
  /// not its neighbors: their silence counts from now, so that what they sent meanwhile is read
  /// first.
  void step_begins(Time now, Time patience) {
    if (now - last_step_ > patience)
      for (Neighbor& neighbor : all_) neighbor.heard = std::max(neighbor.heard, now);
    last_step_ = now;
  }

 private:
  const Rank parent_;
  std::vector<Neighbor> all_;  ///< the children, ascending, then the parent
  Time last_step_;
};

}  // namespace hora
