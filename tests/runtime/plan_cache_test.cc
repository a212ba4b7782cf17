// Goal: a name leads to its latest definition only, and what a step dropped stays readable for the
// plans of that step. Method: by hand, and against a std::map under random changes.
#include "runtime/plan_cache.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

namespace hora {
namespace {

Signature of(int64_t count) {
  Signature signature;
  signature.shapes = {{count}};
  return signature;
}

TEST(PlanCache, ANewDefinitionReplacesTheOldWhichStaysReadableUntilThePurge) {
  PlanCache cache;
  cache.define(1, 0, "x", of(2), 0);
  cache.define(2, 0, "x", of(3), 0);
  EXPECT_EQ(cache.find(0, "x"), 2u);
  EXPECT_EQ(cache.live(1), nullptr);
  ASSERT_NE(cache.find(1), nullptr);
  EXPECT_EQ(cache.find(1)->count, 2u);
  cache.purge();
  EXPECT_EQ(cache.find(1), nullptr);
  EXPECT_EQ(cache.names(), 1u);
}

TEST(PlanCache, TheSameNameInTwoSetsIsTwoItems) {
  PlanCache cache;
  cache.define(1, 0, "x", of(2), 0);
  cache.define(2, 7, "x", of(2), 0);
  cache.drop_set(7);
  EXPECT_EQ(cache.find(0, "x"), 1u);
  EXPECT_EQ(cache.find(7, "x"), 0u);
}

TEST(PlanCache, DroppingEverythingGoesOnFromTheGivenId) {
  PlanCache cache;
  cache.define(1, 0, "x", of(2), 0);
  cache.drop_all(50);
  EXPECT_NE(cache.find(1), nullptr);
  EXPECT_FALSE(cache.acceptable(49));
  EXPECT_FALSE(cache.acceptable(50 + PlanCache::kMaxSpan));
  cache.define(50, 0, "x", of(4), 0);
  cache.purge();
  EXPECT_EQ(cache.find(1), nullptr);
  EXPECT_EQ(cache.find(0, "x"), 50u);
  EXPECT_EQ(cache.find(50)->count, 4u);
  EXPECT_EQ(cache.span(), 1u);
}

TEST(PlanCache, DroppedBucketsReleaseTheirTensors) {
  PlanCache cache;
  cache.define(1, 0, "x", of(2), 0);
  cache.define(2, 0, "y", of(2), 0);
  cache.define_bucket(3, 0, {1, 2});
  EXPECT_EQ(cache.find(1)->bucket, 3u);
  cache.drop_buckets();
  EXPECT_EQ(cache.find(1)->bucket, 0u);
  EXPECT_EQ(cache.live(3), nullptr);
  EXPECT_NE(cache.live(2), nullptr);
}

TEST(PlanCache, AgreesWithAMapUnderRandomChanges) {
  std::mt19937 rng(1);
  PlanCache cache;
  std::map<std::pair<SetId, std::string>, ItemId> known;
  ItemId next = 1;
  for (int i = 0; i < 20'000; ++i) {
    const SetId set = rng() % 3;
    const std::string name = "t" + std::to_string(rng() % 100);
    const auto kind = rng() % 1000;
    if (kind == 0)
      cache.drop_all(next), known.clear();
    else if (kind < 5)
      cache.drop_set(set), std::erase_if(known, [&](auto& p) { return p.first.first == set; });
    else if (kind < 300)
      cache.define(next, set, name, of(next), 0), known[{set, name}] = next++;
    else if (kind < 400)
      cache.purge();
    const auto it = known.find({set, name});
    ASSERT_EQ(cache.find(set, name), it == known.end() ? 0 : it->second);
    if (it != known.end()) {
      ASSERT_EQ(cache.live(it->second)->count, it->second);
    }
    ASSERT_EQ(cache.names(), known.size());
  }
}

}  // namespace
}  // namespace hora
