#pragma once

#include <vector>

#include "hora/request.h"

namespace hora {

/// Where one rank stands in the control tree. Slot 0 is the rank itself, slot i + 1 its i-th child.
struct Position {
  Rank me = 0, parent = -1;                   ///< the root has no parent: -1
  std::vector<Rank> children;                 ///< ascending
  std::vector<std::vector<Rank>> slot_ranks;  ///< all ranks below each slot, ascending
  std::vector<bool> far;                      ///< of each slot: it is on another host
};

/// Host leaders form an arity-ary heap; the other ranks of a host are children of their leader,
/// which they reach through shared memory. `hosts[r]` is the host of rank r. Flat if arity >=
/// hosts.
std::vector<Position> make_tree(const std::vector<int>& hosts, int arity);

}  // namespace hora
