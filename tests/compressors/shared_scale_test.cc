// Goal: levels of a shared scale are those of a scale of one's own where there is one rank, sums of
// them are exact for every number of ranks, and a word holds as many codes as it can.
// Method: gradients that are whole multiples of the step, so that nothing is rounded; a chain with
// a scale for each rank beside it.

#include "tests/compressors/job.h"

namespace hora {
namespace {

TEST(SharedScale, OfOneRankIsThatOfItsOwn) {
  for (const std::string text :
       {"quant:bits=2,bucket=tensor", "quant:bits=4,bucket=96", "ef+quant:bits=8,round=nearest"}) {
    Trial own(text, 3001), shared(text + ",scale=shared", 3001);
    for (uint64_t step = 0; step < 3; ++step) {
      const auto g = gradient(3001, static_cast<uint32_t>(step));
      ASSERT_EQ(own.decode(own.encode(g, step)), shared.decode(shared.encode(g, step))) << text;
      ASSERT_EQ(own.residual(), shared.residual()) << text;
    }
  }
}

/// Whole numbers up to `side`, which one element of each block of rank 0 reaches.
float whole(int side, int rank, size_t i) {
  if (rank == 0 && i % 96 == 5) return static_cast<float>(side);
  const uint32_t random = random_bits({static_cast<uint32_t>(rank), 6}, static_cast<uint32_t>(i));
  return static_cast<float>(static_cast<int>(random % static_cast<uint32_t>(2 * side + 1)) - side);
}

TEST(SharedScale, SumsOfIntegersAreExactForEveryNumberOfRanks) {
  for (int ranks = 1; ranks <= 17; ++ranks) {
    for (const int bits : {2, 5, 8}) {
      const int side = (1 << (bits - 1)) - 1;
      Job job("quant:scale=shared,bucket=96,bits=" + std::to_string(bits), ranks,
              {{1, 5000}, {2, 1}, {3, 0}}, {.op = ReduceOp::kSum});
      ASSERT_EQ(job.how(), Aggregation::kLinear);
      expect_ok(job.step(
          0, [&](uint64_t, int rank, uint64_t, size_t i) { return whole(side, rank, i); }));
      const auto sum = job.result(ranks - 1, 0);
      for (size_t i = 0; i < sum.size(); ++i) {
        float expected = 0;
        for (int r = 0; r < ranks; ++r) expected += whole(side, r, i);
        ASSERT_EQ(sum[i], expected) << ranks << " " << bits << " " << i;
      }
    }
  }
}

TEST(SharedScale, AverageAndPostscaleAreAppliedOnce) {
  const auto value = [](uint64_t, int rank, uint64_t, size_t i) { return whole(1, rank, i); };
  Job sum("terngrad:clip=1e6", 4, {{1, 700}}, {.op = ReduceOp::kSum});
  Job mean("terngrad:clip=1e6", 4, {{1, 700}}, {.prescale = 2, .postscale = 0.5});
  expect_ok(sum.step(0, value));
  expect_ok(mean.step(0, value));
  for (size_t i = 0; i < 700; ++i) ASSERT_EQ(sum.result(0, 0)[i], 4 * mean.result(0, 0)[i]);
}

TEST(SharedScale, AWordHoldsAsManySumsAsFit) {
  const Trial trial("terngrad", 31 * 32 * 10);
  const auto bytes = [&](int ranks) { return trial.codec->round_bytes(1, 31 * 32 * 10, ranks); };
  EXPECT_EQ(bytes(1), 8u * 32 * 10);          // sums to 2: two bits, 31 in a word
  EXPECT_EQ(bytes(3), 8u * (32 * 14 + 32));   // to 6: three bits, 21
  EXPECT_EQ(bytes(4), 8u * (32 * 20 + 32));   // to 8: four bits, 15
  EXPECT_EQ(bytes(64), 8u * (32 * 44 + 32));  // to 128: eight bits, 7
  EXPECT_EQ(trial.codec->round_bytes(1, 1, 4), 8u);
}

TEST(SharedScale, SumsAreUnbiased) {
  constexpr int kDraws = 400;
  Job job("terngrad:clip=1e6", 3, {{1, 300}}, {});
  double squares = 0;
  std::vector<double> mean(300);
  const auto same = [](uint64_t tensor, int rank, uint64_t, size_t i) {
    return element(tensor, rank, 0, i);
  };
  for (uint64_t s = 0; s < kDraws; ++s) {
    expect_ok(job.step(s, same));
    const auto got = job.result(0, 0);
    for (size_t i = 0; i < 300; ++i) mean[i] += double{got[i]} / kDraws;
  }
  for (size_t i = 0; i < 300; ++i) {
    double wanted = 0;
    for (int r = 0; r < 3; ++r) wanted += element(1, r, 0, i) / 3.0;
    squares += (mean[i] - wanted) * (mean[i] - wanted);
  }
  // The variance of one draw is |x| (3.5 - |x|) at most 3.1, of a mean of three a third of that.
  EXPECT_LT(squares / 300, 1.1 / kDraws);
  EXPECT_GT(squares, 0);
}

TEST(SharedScale, IsForLevelsAtTheEndOfAChain) {
  for (const char* chain :
       {"quant:bits=1,recon=twomean,scale=shared", "hadamard+quant:bits=4,scale=shared",
        "topk+quant:scale=shared", "terngrad;agg=recode", "terngrad;agg=gather"})
    EXPECT_EQ(ChainConfig::parse(chain).status().code(), Code::kInvalidArgument) << chain;
  EXPECT_TRUE(ChainConfig::parse("terngrad:scale=1;agg=gather").ok());
}

}  // namespace
}  // namespace hora
