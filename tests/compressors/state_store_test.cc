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
  TensorState& state = store.get(0, "w", *a.codec, "onebit", {true, 1, 4});
  ASSERT_EQ(state.mine.slabs.size(), 1u);
  state.mine.find("residual")[7] = 2;
  EXPECT_EQ(&store.get(0, "w", *a.codec, "onebit", {true, 1, 4}), &state);
  EXPECT_EQ(state.mine.find("residual")[7], 2);
  EXPECT_NE(&store.get(1, "w", *a.codec, "onebit", {true, 1, 4}), &state);
  EXPECT_EQ(store.owed(0, "w"), 2);
  EXPECT_EQ(store.get(0, "w", *b.codec, "onebit", {true, 1, 4}).mine.slabs[0].values.size(), 3500u);
  EXPECT_EQ(store.lost(), 2);
  store.get(0, "w", *b.codec, "onebit", {true, 1, 4}).mine.find("residual")[0] = -3;
  EXPECT_EQ(store.get(0, "w", *c.codec, "bf16", {true, 1, 4}).mine.slabs[0].values.size(), 3000u);
  EXPECT_EQ(store.lost(), 5);
}

TEST(StateStore, ANewSizeResetsOnlyWhatWasOwned) {
  StateStore store;
  Trial a("onebit", 3000);
  TensorState& state = store.get(0, "w", *a.codec, "onebit", {true, 1, 2});
  state.mine.find("residual")[7] = 2;
  state.owned.find("residual")[0] = 5;
  store.get(0, "w", *a.codec, "onebit", {true, 1, 3});
  EXPECT_EQ(state.mine.find("residual")[7], 2);
  EXPECT_EQ(state.owned.find("residual")[0], 0);
  EXPECT_EQ(store.lost(), 5);
}

TEST(StateStore, WhatWasSavedComesBackForTheSameChain) {
  StateStore store;
  Trial a("onebit", 3000);
  TensorState& state = store.get(3, "w", *a.codec, "onebit", {true, 1, 2});
  state.mine.find("residual")[7] = 2;
  state.owned.find("residual")[9] = 5;
  state.step = 11;
  state.rate = 0.5f;
  const std::string bytes = to_bytes(store.save());
  const auto parts = from_bytes(bytes);
  ASSERT_TRUE(parts.ok());
  ASSERT_EQ(parts.value().size(), 1u);

  StateStore later;
  later.load(parts.value());
  EXPECT_EQ(to_bytes(later.save()), bytes) << "what nobody asked for yet is still saved";
  TensorState& loaded = later.get(3, "w", *a.codec, "onebit", {true, 1, 2});
  EXPECT_EQ(loaded.mine.find("residual")[7], 2);
  EXPECT_EQ(loaded.owned.find("residual")[9], 5);
  EXPECT_EQ(loaded.step, 11u);
  EXPECT_EQ(loaded.rate, 0.5f);
  EXPECT_EQ(to_bytes(later.save()), bytes);
  loaded.mine.find("residual")[7] = 4;
  later.load(parts.value());
  EXPECT_EQ(to_bytes(later.save()), bytes) << "it replaces what is there";

  StateStore other;
  other.load(parts.value());
  const TensorState& fresh = other.get(3, "w", *a.codec, "another", {true, 1, 2});
  EXPECT_EQ(fresh.step, 0u);
  EXPECT_EQ(fresh.mine.slabs[0].values[7], 0);
  EXPECT_EQ(other.lost(), 7);
}

TEST(StateStore, AClockIsWhatAPartOfSomebodyElseGives) {
  StateStore store;
  Trial a("onebit", 3000);
  TensorState& state = store.get(0, "w", *a.codec, "onebit", {true, 0, 2});
  state.mine.find("residual")[7] = 2;
  state.step = 11;
  for (const bool slabs : {false, true}) {
    StateStore other;
    other.get(0, "w", *a.codec, "onebit", {true, 1, 2}).mine.find("residual")[1] = 3;
    other.load(store.save(0, "w", slabs));
    TensorState& told = other.get(0, "w", *a.codec, "onebit", {true, 1, 2});
    EXPECT_EQ(told.step, 11u);
    EXPECT_EQ(told.mine.find("residual")[1], 3) << "its own";
    EXPECT_EQ(told.mine.find("residual")[7], 0);
    EXPECT_EQ(other.lost(), 0);
  }
}

/// What `size` ranks owe to the result, element by element: whole numbers, other ones everywhere.
class Debtors {
 public:
  Debtors(int size, bool averages) : size_(size), averages_(averages), stores_(size) {
    for (int r = 0; r < size; ++r) {
      TensorState& state = at(r);
      float value = static_cast<float>(r + 1);
      for (float& x : state.mine.slabs[0].values) x = value++;
      for (float& x : state.owned.slabs[0].values) x = -2 * value++;
      state.step = 5;
    }
  }

  TensorState& at(int r) {
    return stores_[static_cast<size_t>(r)].get(0, "w", *trial_.codec, "onebit",
                                               {true, r, size_, averages_});
  }
  StateStore& store(int r) { return stores_[static_cast<size_t>(r)]; }

  /// By all ranks, or by one of them.
  std::vector<double> owed(int only = -1) {
    std::vector<double> sum(kCount);
    const Stripes stripes(trial_.codec->extent().id, kCount, trial_.codec->granule(), size_);
    for (int r = 0; r < size_; ++r) {
      if (only >= 0 && r != only) continue;
      TensorState& state = at(r);
      for (size_t i = 0; i < kCount; ++i) {
        sum[i] += state.mine.find("residual")[i];
        if (stripes.owner(i) == r) sum[i] += state.owned.find("residual")[stripes.slot(i)];
      }
    }
    for (double& x : sum) x /= averages_ ? size_ : 1;
    return sum;
  }

 private:
  static constexpr size_t kCount = 70000;
  const int size_;
  const bool averages_;
  Trial trial_{"onebit", kCount};
  std::vector<StateStore> stores_;
};

TEST(StateStore, WhatRanksOweSurvivesAnyChangeOfTheirNumber) {
  for (const bool averages : {false, true}) {
    for (const auto& [before, after] : {std::pair(4, 2), {2, 4}, {4, 1}, {1, 4}, {8, 2}}) {
      Debtors old(before, averages), now(after, averages);
      std::vector<SavedState> all;
      for (int r = 0; r < before; ++r) {
        for (SavedState& part : old.store(r).save()) all.push_back(std::move(part));
      }
      const std::vector<double> owed = old.owed();
      for (int r = 0; r < after; ++r) {
        now.store(r).clear();
        now.store(r).load(all);
        EXPECT_EQ(now.at(r).step, 5u);
        EXPECT_EQ(now.store(r).lost(), 0);
      }
      EXPECT_EQ(now.owed(), owed) << before << " " << after << " " << averages;
    }
  }
}

TEST(StateStore, WhoSurvivesUnderAnotherNumberKeepsWhatItOwed) {
  Debtors old(4, true), now(2, true);
  now.store(0).clear();
  now.store(0).load(old.store(3).save(), true);
  now.store(1).clear();
  const std::vector<double> before = old.owed(3), after = now.owed();
  for (size_t i = 0; i < before.size(); ++i) ASSERT_EQ(after[i], before[i]) << i;
}

/// Members of hosts who have shards of one tensor, and all owe whole numbers.
class Columns {
 public:
  Columns(int hosts, int columns, bool averages)
      : hosts_(hosts), columns_(columns), averages_(averages) {
    for (int member = 0; member < hosts * columns; ++member) {
      stores_.emplace_back();
      TensorState& state = at(member);
      float value = static_cast<float>(2 * member + 2);
      for (float& x : state.mine.slabs[0].values) x = 4 * value++;
      for (float& x : state.owned.slabs[0].values) x = -8 * value++;
      state.step = 7;
    }
  }
  int members() const { return hosts_ * columns_; }
  TensorState& at(int member) {
    const Codec& codec = *trial_.codec;
    const Shard shard =
        shard_of(codec.extent().id, kCount, codec.granule(), columns_, member % columns_);
    return store(member).get(0, "w", codec, "onebit;link=inter",
                             {true, member / columns_, hosts_, averages_, shard});
  }
  StateStore& store(int member) { return stores_[static_cast<size_t>(member)]; }
  std::vector<SavedState> save() {
    std::vector<SavedState> all;
    for (StateStore& store : stores_)
      for (SavedState& part : store.save()) all.push_back(std::move(part));
    return all;
  }
  std::vector<double> owed() {
    std::vector<double> sum(kCount);
    const Codec& codec = *trial_.codec;
    for (int member = 0; member < members(); ++member) {
      TensorState& state = at(member);
      const std::span<const float> mine = state.mine.slabs[0].values;
      const uint64_t first = state.mine.first;
      const Stripes stripes(codec.extent().id, Shard{first, mine.size()}, codec.granule(), hosts_);
      for (size_t i = 0; i < mine.size(); ++i) {
        sum[first + i] += mine[i];
        if (stripes.owner(first + i) == member / columns_)
          sum[first + i] += state.owned.slabs[0].values[stripes.slot(first + i)];
      }
    }
    for (double& x : sum) x /= averages_ ? hosts_ : 1;
    return sum;
  }

  static constexpr size_t kCount = 150000;

 private:
  const int hosts_, columns_;
  const bool averages_;
  Trial trial_{"onebit", kCount};
  std::vector<StateStore> stores_;
};

TEST(StateStore, ShardsComeBackToTheBitAndSurviveAnyOtherLayout) {
  for (const bool averages : {false, true}) {
    for (const auto& [hosts, columns] : {std::pair(2, 2), {2, 1}, {4, 2}, {1, 3}, {4, 4}}) {
      Columns old(2, 2, averages), now(hosts, columns, averages);
      const auto parts = from_bytes(to_bytes(old.save())).value();
      for (int member = 0; member < now.members(); ++member) {
        now.store(member).clear();
        now.store(member).load(parts);
        EXPECT_EQ(now.at(member).step, 7u);
        EXPECT_EQ(now.store(member).lost(), 0);
      }
      EXPECT_EQ(now.owed(), old.owed()) << hosts << " hosts of " << columns;
      if (hosts == 2 && columns == 2) {
        EXPECT_EQ(to_bytes(now.save()), to_bytes(old.save()));
      }
    }
  }
}

TEST(StateStore, WhatNobodyElseWillTakeOfAShardIsLostAndCounted) {
  Columns old(1, 2, false), now(1, 1, false);
  now.store(0).clear();
  now.store(0).load(old.store(1).save(), true);
  const TensorState& state = now.at(0);
  double owed = 0;
  for (const float x : state.mine.slabs[0].values) owed += std::fabs(x);
  EXPECT_GT(owed, 0);
  EXPECT_EQ(now.store(0).lost(), 0) << "the new shard has all of the old one";

  Columns half(1, 2, false);
  const double all = half.store(0).owed(0, "w");
  half.store(0).clear();
  half.store(0).load(old.store(1).save(), true);
  half.at(0);
  EXPECT_GT(all, 0);
  EXPECT_GT(half.store(0).lost(), 0) << "none of it is this member's";
  EXPECT_EQ(half.store(0).owed(0, "w"), 0);
}

TEST(StateStore, DamagedBytesAreRefused) {
  StateStore store;
  Trial a("onebit", 40);
  store.get(0, "w", *a.codec, "onebit", {false, 0, 1});
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
