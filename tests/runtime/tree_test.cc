// Goal: the control tree reaches every rank once, inside hosts first. Method: laws over all small
// shapes, and one shape by hand.
#include "runtime/tree.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Tree, EveryRankIsBelowItsParentInExactlyOneSlot) {
  for (int size = 1; size <= 40; ++size)
    for (int per_host = 1; per_host <= 5; ++per_host)
      for (int arity = 1; arity <= 4; ++arity) {
        std::vector<int> hosts;
        for (int rank = 0; rank < size; ++rank) hosts.push_back(rank / per_host);
        const auto tree = make_tree(hosts, arity);
        size_t edges = 0;
        for (const Position& at : tree) {
          edges += at.children.size();
          ASSERT_EQ(at.slot_ranks.size(), at.children.size() + 1);
          EXPECT_EQ(at.slot_ranks[0], std::vector<Rank>{at.me});
          for (size_t slot = 1; slot < at.slot_ranks.size(); ++slot) {
            const Position& child = tree[static_cast<size_t>(at.children[slot - 1])];
            EXPECT_EQ(child.parent, at.me);
            size_t below = 0;
            for (const auto& ranks : child.slot_ranks) below += ranks.size();
            EXPECT_EQ(at.slot_ranks[slot].size(), below);
            EXPECT_TRUE(std::is_sorted(at.slot_ranks[slot].begin(), at.slot_ranks[slot].end()));
          }
        }
        EXPECT_EQ(edges, static_cast<size_t>(size) - 1);
        EXPECT_EQ(tree[0].parent, -1);
      }
}

TEST(Tree, RanksOfAHostHangOnItsLowestRankAndHostsFormAHeap) {
  const auto tree = make_tree({0, 0, 1, 1, 2, 2, 3, 3}, 2);
  EXPECT_EQ(tree[0].children, (std::vector<Rank>{1, 2, 4}));
  EXPECT_EQ(tree[2].children, (std::vector<Rank>{3, 6}));
  EXPECT_EQ(tree[6].children, (std::vector<Rank>{7}));
  EXPECT_EQ(tree[0].slot_ranks[2], (std::vector<Rank>{2, 3, 6, 7}));
}

}  // namespace
}  // namespace hora
