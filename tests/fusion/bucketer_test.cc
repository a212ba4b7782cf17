// Goal: every element of every operation is issued exactly once, in order, within the
// bucket's size, and cut only where its chain allows. Method: laws under random work; cases by
// hand.
#include "fusion/bucketer.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

namespace hora {
namespace {

Signature allreduce(int64_t count) {
  Signature signature;
  signature.shapes = {{count}};
  return signature;
}

BucketOptions small() {
  BucketOptions options;
  options.bucket_bytes = 64, options.express_bytes = 0, options.window_bytes = 64;
  return options;
}

const auto kAlways = [](SetId, bool, uint64_t) { return true; };

std::vector<Bucket> all_of(Bucketer& bucketer) {
  std::vector<Bucket> buckets;
  for (Bucket bucket; bucketer.next(kAlways, bucket);) buckets.push_back(bucket);
  return buckets;
}

TEST(Bucketer, FusesEqualKindsAndLooksPastOthers) {
  Bucketer bucketer(small());
  Signature other = allreduce(4);
  other.chain = "onebit";
  bucketer.add(bucketer.describe(1, 0, allreduce(4), 0));
  bucketer.add(bucketer.describe(2, 0, other, 0));
  bucketer.add(bucketer.describe(3, 0, allreduce(4), 0));
  bucketer.add(bucketer.describe(4, 9, allreduce(4), 0));
  const auto buckets = all_of(bucketer);
  ASSERT_EQ(buckets.size(), 3u);
  EXPECT_EQ(buckets[0].pieces, (std::vector<BucketPiece>{{1, 0, 4, true}, {3, 0, 4, true}}));
  EXPECT_EQ(buckets[1].pieces, (std::vector<BucketPiece>{{2, 0, 4, true}}));
  EXPECT_EQ(buckets[2].set, 9u);
}

TEST(Bucketer, UrgentWorkGoesBetweenThePiecesOfLargeWork) {
  Bucketer bucketer(small());
  bucketer.add(bucketer.describe(1, 0, allreduce(40), 0));
  Bucket bucket;
  ASSERT_TRUE(bucketer.next(kAlways, bucket));
  EXPECT_EQ(bucket.pieces, (std::vector<BucketPiece>{{1, 0, 16, false}}));
  bucketer.add(bucketer.describe(2, 0, allreduce(1), 5));
  ASSERT_TRUE(bucketer.next(kAlways, bucket));
  EXPECT_EQ(bucket.pieces[0].id, 2u);
}

TEST(Bucketer, CutsOnlyAtTheGranuleAndNeverWhatMustStayWhole) {
  for (const uint32_t granule : {0u, 1u, 3u, 16u, 100u}) {
    Bucketer bucketer(small());
    Signature signature = allreduce(250);
    signature.granule = granule;
    bucketer.add(bucketer.describe(1, 0, signature, 0));
    const auto buckets = all_of(bucketer);
    EXPECT_EQ(buckets.size() == 1, granule == 0);
    for (const Bucket& bucket : buckets)
      EXPECT_TRUE(bucket.pieces[0].last || bucket.pieces[0].count % granule == 0) << granule;
  }
  Bucketer bucketer(small());
  Signature adasum = allreduce(250);
  adasum.reduce = ReduceOp::kAdasum;
  bucketer.add(bucketer.describe(1, 0, adasum, 0));
  Signature ragged = allreduce(50);
  ragged.granule = 16, ragged.shapes.push_back({200});
  bucketer.add(bucketer.describe(2, 0, ragged, 0));
  for (const Bucket& bucket : all_of(bucketer)) EXPECT_TRUE(bucket.pieces[0].last);
}

TEST(Bucketer, WhatFindsNoRoomIsOvertakenByExpressWorkAlone) {
  BucketOptions options = small();
  options.express_bytes = 4;
  options.lanes = 3;
  Bucketer bucketer(options);
  bucketer.add(bucketer.describe(1, 0, allreduce(16), 0));
  bucketer.add(bucketer.describe(2, 1, allreduce(2), 0));
  bucketer.add(bucketer.describe(3, 0, allreduce(1), 0));
  Bucket bucket;
  const auto room = [](SetId, bool express, uint64_t bytes) { return express || bytes <= 8; };
  ASSERT_TRUE(bucketer.next(room, bucket));
  EXPECT_EQ(bucket.pieces[0].id, 3u);
  EXPECT_FALSE(bucketer.next(room, bucket));
}

TEST(Bucketer, BucketsTakeTheLanesButTheExpressLaneInTurn) {
  BucketOptions options = small();
  options.lanes = 4;
  Bucketer bucketer(options);
  bucketer.add(bucketer.describe(1, 0, allreduce(5 * 16), 0));
  std::vector<int> lanes;
  for (const Bucket& bucket : all_of(bucketer)) lanes.push_back(bucket.lane);
  EXPECT_EQ(lanes, (std::vector<int>{1, 2, 3, 1, 2}));
}

TEST(Bucketer, SmallWorkTakesTheExpressLaneUnlessThereIsOnlyOne) {
  BucketOptions options;
  Bucketer three(options);
  three.add(three.describe(1, 0, allreduce(16'384), 0));
  three.add(three.describe(2, 0, allreduce(16'385), 0));
  const auto buckets = all_of(three);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[0].lane, 0);
  EXPECT_EQ(buckets[1].lane, 1);
  options.lanes = 1;
  Bucketer one(options);
  one.add(one.describe(1, 0, allreduce(16'385), 0));
  EXPECT_EQ(all_of(one)[0].lane, 0);
}

TEST(Bucketer, RandomWorkIsIssuedWholeInOrderAndWithinTheLimits) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 rng(seed);
    Bucketer bucketer(small());
    std::map<ItemId, ReadyWork> works;
    std::map<ItemId, uint64_t> done;
    for (ItemId id = 1; id <= 50; ++id) {
      Signature signature = allreduce(rng() % 100);
      signature.granule = rng() % 5;
      if (rng() % 2 == 0) signature.chain = "onebit";
      if (rng() % 4 == 0) signature.op = Op::kBroadcast;
      works[id] = bucketer.describe(id, rng() % 3, signature, static_cast<int16_t>(rng() % 3));
      bucketer.add(works[id]);
    }
    for (const Bucket& bucket : all_of(bucketer)) {
      uint64_t bytes = 0;
      for (const BucketPiece& piece : bucket.pieces) {
        const ReadyWork& work = works.at(piece.id);
        EXPECT_EQ(work.set, bucket.set);
        EXPECT_EQ(piece.first, done[piece.id]);
        done[piece.id] += piece.count;
        EXPECT_EQ(piece.last, done[piece.id] == work.count);
        EXPECT_EQ(bucket.lane == 0, work.bytes() == 0);  // small(): nothing larger is express
        bytes += piece.count * work.bytes_each;
      }
      EXPECT_EQ(bytes, bucket.bytes);
      EXPECT_TRUE(bucket.pieces.size() == 1 || bytes <= 64);
    }
    for (const auto& [id, work] : works) EXPECT_EQ(done[id], work.count) << "seed " << seed;
  }
}

TEST(Bucketer, StableBucketsHoldEachFittingTensorOnceAndNoLoneOnes) {
  Bucketer bucketer(small());
  std::vector<ReadyWork> order;
  for (ItemId id = 1; id <= 5; ++id) order.push_back(bucketer.describe(id, 0, allreduce(8), 0));
  order.push_back(bucketer.describe(6, 0, allreduce(100), 0));
  EXPECT_EQ(Bucketer::stable_buckets(order, small()),
            (std::vector<std::vector<ItemId>>{{1, 2}, {3, 4}}));
}

}  // namespace
}  // namespace hora
