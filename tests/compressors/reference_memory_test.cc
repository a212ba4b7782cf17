// Goal: with ef:ref=global each rank owes what the mean lacks of its own gradient, with ref=local
// what its own part lacks; over ranks that is the same, for sums and for means.
// Method: one exchange of every chain whose payloads are sums.

#include "tests/compressors/job.h"

namespace hora {
namespace {

constexpr int kRanks = 3;
constexpr size_t kCount = 700;
constexpr const char* kSums[] = {"powersgd", "randk:ratio=5%", "mask:ratio=5%",
                                 "quant:bits=4,round=nearest,scale=shared",
                                 "basis:slice=64,rank=8,refresh=2"};

TEST(ReferenceOfMemory, GlobalIsWhatTheMeanLacks) {
  for (const std::string chain : kSums) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage}) {
      Job job("ef:ref=global+" + chain, kRanks, {{1, kCount}}, {.op = op, .postscale = 2});
      expect_ok(job.step(0, element));
      const float mean = op == ReduceOp::kSum ? 0.5f / kRanks : 0.5f;
      const auto result = job.result(0, 0);
      for (int r = 0; r < kRanks; ++r) {
        const auto owed = job.residual(r, 0);
        for (size_t i = 0; i < kCount; ++i)
          ASSERT_NEAR(owed[i], element(1, r, 0, i) - mean * result[i], 1e-5) << chain << " " << i;
      }
    }
  }
}

TEST(ReferenceOfMemory, OverRanksBothOweTheSame) {
  for (const std::string chain : kSums) {
    Job local("ef+" + chain, kRanks, {{1, kCount}}, {});
    Job global("ef:ref=global+" + chain, kRanks, {{1, kCount}}, {});
    for (uint64_t step = 0; step < 2; ++step) {
      expect_ok(local.step(step, element));
      expect_ok(global.step(step, element));
    }
    if (chain.starts_with("mask") || chain.starts_with("quant")) continue;  // chose by what is owed
    for (size_t i = 0; i < kCount; ++i)
      ASSERT_NEAR(local.owed(0, i), global.owed(0, i), 1e-3) << chain << " " << i;
  }
}

TEST(ReferenceOfMemory, GlobalNeedsSums) {
  for (const char* chain : {"ef:ref=global+topk", "ef:ref=global+onebit", "ef:ref=global+bf16"})
    EXPECT_FALSE(ChainConfig::parse(chain).ok()) << chain;
}

}  // namespace
}  // namespace hora
