// Goal: state is made, kept, renewed and saved exactly as its tensor's chain and extent say, and
// stripes are a partition.
// Method: identity of pointers and values; a saved form that is cut at every byte.

#include "compressors/state_store.h"

#include <set>

#include "compressors/stripes.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

TEST(StateStore, KeepsStateUntilChainOrExtentChange) {
  StateStore store;
  Trial a("onebit", 3000), b("onebit", 3500), c("ef+bf16", 3000);
  TensorState& state = store.get(0, "w", *a.codec, "onebit", true, 1, 4);
  ASSERT_EQ(state.mine.slabs.size(), 1u);
  state.mine.find("residual")[7] = 2;
  EXPECT_EQ(&store.get(0, "w", *a.codec, "onebit", true, 1, 4), &state);
  EXPECT_EQ(state.mine.find("residual")[7], 2);
  EXPECT_NE(&store.get(1, "w", *a.codec, "onebit", true, 1, 4), &state);
  EXPECT_EQ(store.owed(0, "w"), 2);
  EXPECT_EQ(store.get(0, "w", *b.codec, "onebit", true, 1, 4).mine.slabs[0].values.size(), 3500u);
  EXPECT_EQ(store.lost(), 2);
  store.get(0, "w", *b.codec, "onebit", true, 1, 4).mine.find("residual")[0] = -3;
  EXPECT_EQ(store.get(0, "w", *c.codec, "bf16", true, 1, 4).mine.slabs[0].values.size(), 3000u);
  EXPECT_EQ(store.lost(), 5);
}

TEST(StateStore, ANewSizeResetsOnlyWhatWasOwned) {
  StateStore store;
  Trial a("onebit", 3000);
  TensorState& state = store.get(0, "w", *a.codec, "onebit", true, 1, 2);
  state.mine.find("residual")[7] = 2;
  state.owned.find("residual")[0] = 5;
  store.get(0, "w", *a.codec, "onebit", true, 1, 3);
  EXPECT_EQ(state.mine.find("residual")[7], 2);
  EXPECT_EQ(state.owned.find("residual")[0], 0);
  EXPECT_EQ(store.lost(), 5);
}

TEST(StateStore, WhatWasSavedComesBackForTheSameChain) {
  StateStore store;
  Trial a("onebit", 3000);
  TensorState& state = store.get(3, "w", *a.codec, "onebit", true, 1, 2);
  state.mine.find("residual")[7] = 2;
  state.owned.find("residual")[9] = 5;
  const std::string bytes = to_bytes(store.save());
  const auto slabs = from_bytes(bytes);
  ASSERT_TRUE(slabs.ok());
  ASSERT_EQ(slabs.value().size(), 2u);

  StateStore later;
  EXPECT_EQ(later.load(slabs.value(), 0, 2).code(), Code::kInvalidArgument);
  ASSERT_TRUE(later.load(slabs.value(), 1, 2).ok());
  EXPECT_EQ(to_bytes(later.save()), bytes) << "what nobody asked for yet is still saved";
  TensorState& loaded = later.get(3, "w", *a.codec, "onebit", true, 1, 2);
  EXPECT_EQ(loaded.mine.find("residual")[7], 2);
  EXPECT_EQ(loaded.owned.find("residual")[9], 5);
  EXPECT_EQ(to_bytes(later.save()), bytes);

  StateStore other;
  ASSERT_TRUE(other.load(slabs.value(), 1, 2).ok());
  EXPECT_EQ(other.get(3, "w", *a.codec, "another", true, 1, 2).mine.find("residual")[7], 0);
  EXPECT_EQ(other.lost(), 7);
}

TEST(StateStore, DamagedBytesAreRefused) {
  StateStore store;
  Trial a("onebit", 40);
  store.get(0, "w", *a.codec, "onebit", false, 0, 1);
  const std::string bytes = to_bytes(store.save());
  ASSERT_TRUE(from_bytes(bytes).ok());
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    ASSERT_EQ(from_bytes(std::string_view(bytes).substr(0, cut)).status().code(), Code::kCorrupt)
        << cut;
  }
  EXPECT_FALSE(from_bytes(bytes + "x").ok());
  std::mt19937 engine(3);
  for (int trial = 0; trial < 2000; ++trial) {
    std::string bad = bytes;
    for (int k = 0; k < 4; ++k) bad[engine() % bad.size()] = static_cast<char>(engine());
    (void)from_bytes(bad).ok();
  }
}

TEST(Stripes, AreAPartitionWithOneOwnerEach) {
  for (const int ranks : {1, 2, 3, 5, 8}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{511}, size_t{5000}, size_t{300000}}) {
      for (const size_t granule : {size_t{512}, size_t{96}}) {
        const Stripes stripes(12345, count, granule, ranks);
        std::vector<size_t> owned(static_cast<size_t>(ranks));
        std::vector<std::set<size_t>> slots(static_cast<size_t>(ranks));
        for (uint64_t i = 0; i < count;) {
          ASSERT_EQ(i % granule, 0u);
          const uint64_t end = stripes.end(i);
          const auto owner = static_cast<size_t>(stripes.owner(i));
          for (; i < end; ++i) {
            ASSERT_EQ(static_cast<size_t>(stripes.owner(i)), owner);
            ASSERT_TRUE(slots[owner].insert(stripes.slot(i)).second);
            ++owned[owner];
          }
        }
        for (int r = 0; r < ranks; ++r) {
          const auto& mine = slots[static_cast<size_t>(r)];
          ASSERT_EQ(stripes.owned(r), owned[static_cast<size_t>(r)]) << count << " " << ranks;
          if (!mine.empty()) {
            ASSERT_EQ(*mine.rbegin() + 1, mine.size()) << "side by side";
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace hora
