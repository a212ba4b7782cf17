// Goal: predictions follow the model they cite, and choices follow predictions.
// Method: costs that are worked out by hand, and laws that hold for any numbers.

#include "ops/cost_model.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

// 10 us and 1 us for each message, 1 GB/s; inside 2 us, 10 GB/s.
Topology topology_of(size_t hosts, size_t ranks) {
  return {hosts, ranks, {2e-6, 0, 10e9}, {10e-6, 1e-6, 1e9}};
}

TEST(CostModel, OneHostPaysForItsMemory) {
  const Prediction at = predict(topology_of(1, 4), Route::kInside, 100'000'000);
  EXPECT_DOUBLE_EQ(at.seconds, 2e-6 + 0.01);
  EXPECT_STREQ(at.limit, "memory");
}

TEST(CostModel, SmallMessagesTakeOneStepAndLargeOnesTwo) {
  // Two hosts of one rank: everything to the other, or half of it and back.
  EXPECT_DOUBLE_EQ(predict(topology_of(2, 1), Route::kFlat, 1000).seconds, 10e-6 + 1e-6 + 1e-6);
  const Prediction four = predict(topology_of(4, 1), Route::kFlat, 100'000'000);
  EXPECT_DOUBLE_EQ(four.seconds, 20e-6 + 6e-6 + 0.15);
  EXPECT_STREQ(four.limit, "link");
}

TEST(CostModel, AByteCrossesOnceForTheHostAndNotOnceForEachRank) {
  const size_t bytes = 150'000'000;
  const Topology topology = topology_of(2, 4);
  // Flat: 4 ranks send 4/8 twice through one link. Hierarchical: the host sends 1/2 twice.
  EXPECT_NEAR(predict(topology, Route::kFlat, bytes).seconds, 4 * 0.15, 1e-3);
  EXPECT_NEAR(predict(topology, Route::kHierarchical, bytes).seconds, 0.15 + 0.015 / 15, 1e-3);
  EXPECT_EQ(choose(topology, bytes).route, Route::kHierarchical);
  EXPECT_EQ(reason(topology, bytes), "limited by link; flat would take 600 ms, limited by link");
}

TEST(CostModel, PartsGoOneWayOnly) {
  const size_t bytes = 160'000'000;
  const Topology topology = topology_of(2, 4);
  for (const auto collective : {Collective::kAllgather, Collective::kReduceScatter}) {
    // Flat: 4 ranks send their eighth to the 4 of the other host. Hierarchical: the half, once.
    EXPECT_DOUBLE_EQ(predict(topology, Route::kFlat, bytes, collective).seconds,
                     10e-6 + 7e-6 + 0.32);
    EXPECT_NEAR(predict(topology, Route::kHierarchical, bytes, collective).seconds,
                0.08 + 0.016 / 15, 1e-3);
    EXPECT_EQ(choose(topology, bytes, collective).route, Route::kHierarchical);
  }
}

TEST(CostModel, ALongLinkTakesFewChunksAndAShortOneMany) {
  const size_t bytes = 64 << 20;
  Topology topology = topology_of(2, 2);
  // What can be hidden is 6.7 ms of memory; a chunk adds 10 us + 1 us + 2 * 2 us.
  EXPECT_EQ(predict(topology, Route::kHierarchical, bytes).chunks, kMostChunks);
  topology.across.latency = 20e-3;
  EXPECT_EQ(predict(topology, Route::kHierarchical, bytes).chunks, 1u);
  topology.across.latency = 0.2e-3;
  EXPECT_EQ(predict(topology, Route::kHierarchical, bytes).chunks, 6u);
  EXPECT_EQ(predict(topology, Route::kHierarchical, 2 * kLeastChunkBytes - 1).chunks, 1u);
}

TEST(CostModel, ABroadcastGoesThroughAllOnlyIfItIsLarge) {
  const Topology topology = topology_of(4, 1);
  EXPECT_DOUBLE_EQ(predict(topology, Route::kFlat, 1000, Collective::kBroadcast).seconds,
                   10e-6 + 3e-6 + 3e-6);
  EXPECT_DOUBLE_EQ(predict(topology, Route::kFlat, 100'000'000, Collective::kBroadcast).seconds,
                   30e-6 + 1e-6 + 0.1);
}

TEST(CostModel, ChoosesTheLeastForEverySizeAndTopology) {
  for (const size_t hosts : {2, 3, 16})
    for (const size_t ranks : {1, 2, 8})
      for (size_t bytes = 4; bytes <= 64 << 20; bytes *= 4) {
        const Topology topology = topology_of(hosts, ranks);
        const double flat = predict(topology, Route::kFlat, bytes).seconds;
        const double layered = predict(topology, Route::kHierarchical, bytes).seconds;
        const Prediction best = choose(topology, bytes);
        EXPECT_LE(best.seconds, flat * (1 + 1e-12));
        if (ranks > 1) EXPECT_LE(best.seconds, layered);
        EXPECT_GT(best.seconds, 0);
      }
}

TEST(CostModel, AFewRanksOnAQuickLinkMayAsWellGoFlat) {
  Topology topology = topology_of(2, 2);
  topology.across = {1e-6, 0.1e-6, 10e9};
  EXPECT_EQ(choose(topology, 4).route, Route::kFlat);
  EXPECT_EQ(choose(topology, 64 << 20).route, Route::kHierarchical);
}

}  // namespace
}  // namespace hora
