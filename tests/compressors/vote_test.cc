// Goal: a vote's outcome is the majority of signs for every number of ranks, ties and tails
// included, a minority that lies cannot change it, and ballots that nobody wrote are refused.
// Method: every outcome against counting by hand.

#include "compressors/majority.h"
#include "tests/compressors/job.h"

namespace hora {
namespace {

float majority(uint64_t tensor, int ranks, size_t i) {
  int plus = 0;
  for (int r = 0; r < ranks; ++r) plus += !std::signbit(element(tensor, r, 0, i));
  return 2 * plus >= ranks ? 0.5f : -0.5f;
}

TEST(Vote, IsTheMajorityOfSignsForEveryNumberOfRanks) {
  for (int ranks = 1; ranks <= 17; ++ranks) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage}) {
      Job job("signsgd:scale=0.5", ranks, kTensors, {.op = op});
      ASSERT_EQ(job.how(), Aggregation::kVote);
      expect_ok(job.step(0, element));
      for (size_t t = 0; t < job.tensors(); ++t) {
        const auto result = job.result(ranks - 1, t);
        for (size_t i = 0; i < result.size(); ++i)
          ASSERT_EQ(result[i], majority(job.id(t), ranks, i)) << ranks << " " << t << " " << i;
      }
    }
  }
}

TEST(Vote, TiesArePlus) {
  const auto halves = [](uint64_t, int rank, uint64_t, size_t) { return rank % 2 ? 1.0f : -1.0f; };
  Job job("signum", 4, {{1, 700}}, {});
  expect_ok(job.step(0, halves));
  EXPECT_EQ(job.result(0, 0), std::vector<float>(700, 1.0f));
}

TEST(Vote, AMinorityThatLiesChangesNothingThatTheOthersAgreeOn) {
  const auto lying = [](uint64_t tensor, int rank, uint64_t step, size_t i) {
    const float said = element(tensor, 0, step, i);  // all ranks saw the same
    return rank >= 4 ? -said : said;
  };
  Job job("signsgd", 7, kTensors, {});
  expect_ok(job.step(0, lying));
  for (size_t t = 0; t < job.tensors(); ++t) {
    const auto result = job.result(0, t);
    for (size_t i = 0; i < result.size(); ++i)
      ASSERT_EQ(result[i], std::signbit(element(job.id(t), 0, 0, i)) ? -1.0f : 1.0f);
  }
}

TEST(Vote, IsOnlyForSignsOfOneScaleWithoutMemory) {
  for (const char* chain : {"onebit;agg=vote", "ef+quant:bits=1,recon=unit;agg=vote",
                            "quant:bits=4;agg=vote", "topk;agg=vote"})
    EXPECT_EQ(ChainConfig::parse(chain).status().code(), Code::kInvalidArgument) << chain;
  EXPECT_TRUE(ChainConfig::parse("clip:norm=1+signsgd").ok());
}

TEST(Vote, RefusesABallotOfAnotherScale) {
  Trial run("signsgd", 600);
  auto ballots = run.encode(gradient(600, 1));
  const size_t bytes = ballots.size();
  ballots.insert(ballots.end(), ballots.begin(), ballots.end());
  std::vector<std::byte> winner(bytes);
  ASSERT_TRUE(run.codec->vote(ballots.data(), bytes, 2, 600, winner.data()).ok());
  EXPECT_TRUE(std::equal(winner.begin(), winner.end(), ballots.begin()));
  ballots[bytes + 4] ^= std::byte{1};  // of the second one's second block
  EXPECT_EQ(run.codec->vote(ballots.data(), bytes, 2, 600, winner.data()).code(), Code::kCorrupt);
}

TEST(Vote, CountsBitsOfAnyLength) {
  for (const size_t bytes : {size_t{1}, size_t{7}, size_t{255}, size_t{256}, size_t{777}}) {
    for (const size_t voters : {size_t{1}, size_t{2}, size_t{5}, size_t{64}}) {
      std::vector<std::byte> ballots(voters * (bytes + 3));
      for (uint32_t i = 0; i < ballots.size(); ++i)
        ballots[i] = static_cast<std::byte>(random_bits({1, 2}, i));
      std::vector<std::byte> winner(bytes + 1, std::byte{0xA5});
      elect(ballots.data(), bytes + 3, voters, bytes, winner.data());
      EXPECT_EQ(winner[bytes], std::byte{0xA5});
      for (size_t bit = 0; bit < 8 * bytes; ++bit) {
        const auto one = [&](const std::byte* of) {
          return (of[bit / 8] >> bit % 8 & std::byte{1}) != std::byte{0};
        };
        size_t ones = 0;
        for (size_t v = 0; v < voters; ++v) ones += one(&ballots[v * (bytes + 3)]);
        ASSERT_EQ(one(winner.data()), 2 * ones >= voters) << bytes << " " << voters << " " << bit;
      }
    }
  }
}

}  // namespace
}  // namespace hora
