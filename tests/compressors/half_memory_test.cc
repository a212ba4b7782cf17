// Goal: a memory in bfloat16 takes half the bytes, forgets nothing on average, goes through a file
// to the bit, and through every way in which memories are changed.
// Method: exchanges with gradients too small for bfloat16 beside what is owed; failed exchanges,
// saved states and merges whose messages are full.

#include "tests/compressors/job.h"

namespace hora {
namespace {

TEST(HalfMemory, TakesTwoBytesForEachElement) {
  const Trial wide("ef+topk", 1000), half("ef:dtype=bf16+topk", 1000);
  EXPECT_EQ(wide.codec->slabs(1000)[0].bytes(), 4000u);
  EXPECT_EQ(half.codec->slabs(1000)[0].bytes(), 2000u);
  EXPECT_TRUE(half.state.slabs[0].values.empty());
  EXPECT_FALSE(half.codec->traits().conserves);
}

TEST(HalfMemory, SmallGradientsAddUpOnAverage) {
  // One large element is sent in every step; the others owe 100 and get 0.01 each time, which is a
  // fiftieth of the unit that bfloat16 has there.
  constexpr size_t kCount = 2000;
  Trial run("ef:dtype=bf16+topk:ratio=0.01%", kCount);
  std::vector<float> g(kCount, 100.0f);
  g[7] = 1e4f;
  run.decode(run.encode(g, 0));
  std::fill(g.begin(), g.end(), 0.01f);
  for (uint64_t step = 1; step <= 400; ++step) {
    g[7] = 1e4f;
    run.decode(run.encode(g, step));
  }
  double mean = 0;
  const auto owed = run.state.slab("residual")->wide();
  for (size_t i = 0; i < kCount; ++i) mean += i == 7 ? 0.0 : double{owed[i]} / (kCount - 1);
  EXPECT_NEAR(mean, 104, 0.2);  // ten deviations: a draw's is 0.07, a walk's 1.4, a mean's 0.03
  EXPECT_EQ(owed[7], 0);
}

TEST(HalfMemory, AFailedExchangeGivesBackWhatRoundingLeaves) {
  for (const char* text : {"ef:dtype=bf16+onebit", "ef:dtype=bf16+topk:ratio=5%;agg=merge",
                           "ef:dtype=bf16+topk:ratio=5%", "ef:dtype=bf16+powersgd"}) {
    Job probe(text, 3, {{1, 5000}}, {});
    expect_ok(probe.step(0, element));
    Job job(text, 3, {{1, 5000}}, {.fails = 2 * probe.calls() - 1, .after = true});
    expect_ok(job.step(0, element));
    std::vector<double> asked;
    for (size_t i = 0; i < 5000; ++i) {
      asked.push_back(job.owed(0, i));
      for (int r = 0; r < 3; ++r) asked[i] += element(1, r, 1, i);
    }
    for (const Status& outcome : job.step(1, element)) ASSERT_EQ(outcome.code(), Code::kPeerLost);
    for (size_t i = 0; i < 5000; ++i)
      ASSERT_NEAR(job.owed(0, i), asked[i], 0.3) << text << " " << i;
  }
}

TEST(HalfMemory, GoesThroughAFileToTheBit) {
  Trial run("ef:dtype=bf16+topk", 3000);
  StateStore store, loaded;
  const std::string chain = run.config.canonical();
  TensorState& state = store.get(0, "w", *run.codec, chain, {false, 0, 2});
  run.state = state.mine;
  run.encode(gradient(3000, 1));
  state.mine = run.state;
  loaded.load(from_bytes(to_bytes(store.save())).value());
  EXPECT_EQ(loaded.get(0, "w", *run.codec, chain, {false, 0, 2}).mine.slabs[0].halves,
            run.state.slabs[0].halves);
  EXPECT_NEAR(loaded.owed(0, "w"), store.owed(0, "w"), 1e-6);
  // Of one rank alone the mean is half of it, and all of it is taken.
  StateStore alone;
  alone.load(store.save());
  const auto half =
      alone.get(0, "w", *run.codec, chain, {false, 0, 1}).mine.slab("residual")->wide();
  const auto whole = run.state.slab("residual")->wide();
  for (size_t i = 0; i < 3000; ++i) ASSERT_EQ(half[i], whole[i] / 2) << i;
}

TEST(HalfMemory, WhatAMergeHasNoRoomForStaysOwed) {
  const auto crowded = [](uint64_t, int rank, uint64_t, size_t i) {
    return i < 32 ? static_cast<float>(1 + i + 32 * static_cast<size_t>(rank)) : 0.0f;
  };
  constexpr size_t kCount = 32 * 40;
  Job job("ef:dtype=bf16+topk:ratio=2.5%;agg=merge", 4, {{1, kCount}}, {.op = ReduceOp::kSum});
  expect_ok(job.step(0, crowded));
  const auto sum = job.result(0, 0);
  for (size_t i = 0; i < kCount; ++i) {
    double asked = 0;
    for (int r = 0; r < 4; ++r) asked += crowded(1, r, 0, i);
    ASSERT_EQ(double{sum[i]} + job.owed(0, i), asked) << i;  // whole numbers up to 256 are exact
  }
}

}  // namespace
}  // namespace hora
