#include "runtime/tree.h"

#include <algorithm>
#include <cstddef>
#include <map>

namespace hora {

std::vector<Position> make_tree(const std::vector<int>& hosts, int arity) {
  const auto count = static_cast<Rank>(hosts.size());
  std::vector<Position> tree(hosts.size());
  const auto at = [&](Rank rank) -> Position& { return tree[static_cast<size_t>(rank)]; };
  std::vector<Rank> leaders;
  std::map<int, Rank> leader_of;
  for (Rank rank = 0; rank < count; ++rank) {
    at(rank).me = rank;
    const auto [leader, first] = leader_of.try_emplace(hosts[static_cast<size_t>(rank)], rank);
    if (first)
      leaders.push_back(rank);
    else
      at(rank).parent = leader->second;
  }
  for (size_t i = 1; i < leaders.size(); ++i)
    at(leaders[i]).parent = leaders[(i - 1) / static_cast<size_t>(arity)];
  for (Rank rank = 0; rank < count; ++rank)
    if (at(rank).parent >= 0) at(at(rank).parent).children.push_back(rank);
  for (Position& position : tree) {
    position.slot_ranks.resize(position.children.size() + 1);
    position.slot_ranks[0] = {position.me};
    position.far = {false};
    const int host = hosts[static_cast<size_t>(position.me)];
    for (const Rank child : position.children)
      position.far.push_back(hosts[static_cast<size_t>(child)] != host);
  }
  for (Rank rank = 0; rank < count; ++rank) {
    for (Rank below = rank, above = at(rank).parent; above >= 0; above = at(above).parent) {
      const auto& children = at(above).children;
      const auto slot =
          std::lower_bound(children.begin(), children.end(), below) - children.begin();
      at(above).slot_ranks[static_cast<size_t>(slot) + 1].push_back(rank);
      below = above;
    }
  }
  return tree;
}

}  // namespace hora
