// Goal: ranks take turns to choose for all, what they choose is exactly their largest, sums of what
// is chosen are exact, and bytes do not grow with the ranks.
// Method: whole numbers, of which each rank has its largest elsewhere.

#include <cstring>

#include "tests/compressors/job.h"

namespace hora {
namespace {

/// Rank r's large elements are those at r, r + 17, ...
float own_peaks(uint64_t, int rank, uint64_t, size_t i) {
  return i % 17 == static_cast<size_t>(rank) ? 100.0f + static_cast<float>(i % 7) : 1.0f;
}

TEST(Mask, RanksTakeTurnsToChooseForAll) {
  constexpr int kRanks = 3;
  constexpr size_t kCount = 17 * 20;
  Job job("noef+mask:ratio=5%", kRanks, {{4, kCount}}, {.op = ReduceOp::kSum});
  ASSERT_EQ(job.how(), Aggregation::kLinear);
  for (uint64_t step = 0; step < 4; ++step) {
    expect_ok(job.step(step, own_peaks));
    const auto sum = job.result(0, 0);
    const size_t leader = (4 + step) % kRanks;
    size_t sent = 0;
    for (size_t i = 0; i < kCount; ++i) {
      if (sum[i] == 0) continue;
      ++sent;
      EXPECT_EQ(i % 17, leader) << i;
      EXPECT_EQ(sum[i], 102.0f + static_cast<float>(i % 7)) << i;
    }
    EXPECT_EQ(sent, 17u) << "5 % of the elements";
  }
}

TEST(Mask, WhatNobodyChoosesIsOwedUntilItIsLargest) {
  const auto once = [](uint64_t tensor, int rank, uint64_t step, size_t i) {
    return step == 0 ? own_peaks(tensor, rank, step, i) : 0.0f;
  };
  constexpr size_t kCount = 17 * 20;
  Job job("ef+mask:ratio=50%", 3, {{4, kCount}}, {.op = ReduceOp::kSum});
  std::vector<double> arrived(kCount);
  for (uint64_t step = 0; step < 8; ++step) {
    expect_ok(job.step(step, once));
    const auto sum = job.result(0, 0);
    for (size_t i = 0; i < kCount; ++i) arrived[i] += sum[i];
  }
  for (size_t i = 0; i < kCount; ++i) {
    double asked = 0;
    for (int r = 0; r < 3; ++r) asked += own_peaks(4, r, 0, i);
    EXPECT_EQ(arrived[i], asked) << i;
    EXPECT_EQ(job.owed(0, i), 0) << i;
  }
}

TEST(Mask, BytesDoNotGrowWithTheRanks) {
  const auto sent = [](const char* text, int ranks) {
    Job job(text, ranks, {{1, 1 << 16}}, {});
    expect_ok(job.step(0, element));
    return static_cast<double>(job.sent());
  };
  EXPECT_LT(sent("ef+mask", 8), 1.17 * sent("ef+mask", 4));  // 2 (N - 1) / N
  EXPECT_LT(sent("ef+mask", 8), 0.4 * sent("ef+topk;agg=gather", 8));
}

TEST(Mask, AMaskThatIsNoneMakesTheTensorNotANumber) {
  Trial run("ef+mask:ratio=5%", 100);
  const auto g = gradient(100, 1);
  auto payload = run.encode(g);
  const uint32_t far = 100;
  std::memcpy(payload.data() + 4 * 5, &far, 4);  // the last index
  for (const float x : run.decode(payload)) EXPECT_TRUE(std::isnan(x));
  EXPECT_EQ(run.residual(), g);
}

}  // namespace
}  // namespace hora
