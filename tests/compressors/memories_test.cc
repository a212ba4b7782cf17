// Goal: what goes before and around a selection does what its paper says: clipping, momentum
// correction, the rotation, and the factors of a matrix.
// Method: identities (spec'd by the papers) on exact inputs, and small cases by hand.

#include <algorithm>
#include <cmath>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

using Values = std::vector<float>;

/// Small integers: sums and halves of them are exact.
Values integers(size_t count, uint32_t seed) {
  Values values(count);
  for (uint32_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(static_cast<int>(random_bits({seed, 9}, i) % 33) - 16);
  return values;
}

TEST(Clip, ScalesALargeNormDownAndLeavesASmallOne) {
  Trial run("clip:norm=10+noef+topk:ratio=100%", 2);
  EXPECT_EQ(run.decode(run.encode(Values{24, 32})), (Values{6, 8}));
  EXPECT_EQ(run.decode(run.encode(Values{6, 8})), (Values{6, 8}));
}

TEST(Clip, DividesTheNormByTheRootOfTheRanks) {
  Trial run("clip:norm=10,scale=rsqrtN+noef+topk:ratio=100%", 2);
  run.context.size = 4;
  EXPECT_EQ(run.decode(run.encode(Values{6, 8})), (Values{3, 4}));
  EXPECT_EQ(run.decode(run.encode(Values{3, 4})), (Values{3, 4}));
}

TEST(Clip, CutsAtStandardDeviations) {
  // The root of the mean square is 4.
  Trial run("clip:sigma=1+noef+topk:ratio=100%", 4);
  EXPECT_EQ(run.decode(run.encode(Values{-7, 3, 2, 1.4142135f})), (Values{-4, 3, 2, 1.4142135f}));
}

TEST(Clip, LeavesTheSumOfAnOwnerAlone) {
  Trial run("clip:norm=1+noef+quant:bits=8,round=nearest", 2);
  const Values g = {127, 64};
  const auto payload = run.encode(g, 0, static_cast<uint64_t>(Drawer::kOwner));
  EXPECT_EQ(run.decode(payload), g);
}

/// Momentum SGD's sum of velocities over steps.
TEST(Momentum, EverythingSentAddsUpToTheVelocities) {
  constexpr size_t kCount = 40;
  for (const bool nesterov : {false, true}) {
    Trial run(std::string("mc:m=0.5,mask=false,nesterov=") + (nesterov ? "true" : "false") +
                  "+topk:ratio=20%",
              kCount);
    Values u(kCount), asked(kCount), sent(kCount);
    for (uint32_t step = 0; step < 8; ++step) {
      const Values g = integers(kCount, step);
      const Values got = run.decode(run.encode(g, step));
      for (size_t i = 0; i < kCount; ++i) {
        u[i] = nesterov ? 0.5f * (u[i] + g[i]) : 0.5f * u[i] + g[i];
        asked[i] += nesterov ? u[i] + g[i] : u[i];
        sent[i] += got[i];
      }
      const Values owed = run.residual();
      for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(asked[i], sent[i] + owed[i]) << step;
    }
  }
}

TEST(Momentum, DenseWithoutMaskIsMomentumSgd) {
  Trial run("mc:m=0.5,mask=false+topk:ratio=100%", 30);
  Values u(30);
  for (uint32_t step = 0; step < 5; ++step) {
    const Values g = integers(30, step);
    for (size_t i = 0; i < 30; ++i) u[i] = 0.5f * u[i] + g[i];
    ASSERT_EQ(run.decode(run.encode(g, step)), u) << step;
  }
}

TEST(Momentum, DenseWithMaskIsPlainSgd) {
  Trial run("mc:m=0.9+topk:ratio=100%", 30);
  for (uint32_t step = 0; step < 5; ++step) {
    const Values g = integers(30, step);
    ASSERT_EQ(run.decode(run.encode(g, step)), g) << step;
  }
}

TEST(Momentum, TheMaskTakesWhatWasSentFromBothMemories) {
  Trial run("mc:m=0.5+topk:ratio=50%", 4);
  EXPECT_EQ(run.decode(run.encode(Values{8, 1, -9, 2})), (Values{8, 0, -9, 0}));
  EXPECT_EQ(run.residual(), (Values{0, 1, 0, 2}));
  const float* u = run.state.find("velocity");
  EXPECT_EQ(Values(u, u + 4), (Values{0, 1, 0, 2}));
}

TEST(Momentum, WithoutMomentumIsErrorFeedback) {
  Trial mc("mc:m=0+topk:ratio=7%", 500), ef("ef+topk:ratio=7%", 500);
  for (uint32_t step = 0; step < 5; ++step) {
    const auto g = gradient(500, step);
    ASSERT_EQ(mc.encode(g, step), ef.encode(g, step));
  }
  EXPECT_EQ(mc.residual(), ef.residual());
}

TEST(Momentum, AnOwnerRemembersAsErrorFeedbackDoes) {
  Trial mc("mc:mask=false+quant:bits=1,recon=twomean", 300), ef("onebit", 300);
  const auto owner = static_cast<uint64_t>(Drawer::kOwner);
  for (uint32_t step = 0; step < 3; ++step) {
    const auto g = gradient(300, step);
    ASSERT_EQ(mc.encode(g, step, owner), ef.encode(g, step, owner));
  }
}

TEST(Feedback, UpdateUnitsFollowTheLearningRate) {
  Trial run("ef:units=update+topk:ratio=50%", 2);
  run.encode(Values{8, 3});
  run.context.rate_ratio = 2;  // the rate was halved: what is owed weighs twice as much
  EXPECT_EQ(run.decode(run.encode(Values{1, 0})), (Values{0, 6}));
}

TEST(Hadamard, SpreadsOneLargeNumberOverTheBlock) {
  // Alone, 1 of 1024 makes a scale that sends it and nothing else is lost; beside small noise, one
  // bit without a rotation loses nearly everything.
  constexpr size_t kCount = 1024;
  Values g(kCount, 0.01f);
  g[77] = 10;
  const auto error = [&](const std::string& chain) {
    Trial run(chain, kCount);
    const auto got = run.decode(run.encode(g));
    double sum = 0;
    for (size_t i = 0; i < kCount; ++i) sum += (double{got[i]} - g[i]) * (double{got[i]} - g[i]);
    return sum / 100;
  };
  EXPECT_LT(error("noef+hadamard:block=1024+quant:bits=4,round=nearest"), 0.02);
  EXPECT_GT(error("noef+quant:bits=1,recon=l1mean,bucket=1024"), 0.95);
  EXPECT_LT(error("noef+hadamard:block=1024+quant:bits=1,recon=l1mean,bucket=1024"), 0.5);
}

TEST(Hadamard, WhatAnExactQuantizerSendsComesBack) {
  // The transform of a block of one number is plus and minus one number: levels send that exactly.
  for (const size_t count : {1u, 5u, 64u, 100u, 200u}) {
    Trial run("noef+hadamard:block=64+quant:bits=8,round=nearest", count);
    Values g(count);
    g[count - 1] = 16;
    const auto got = run.decode(run.encode(g));
    for (size_t i = 0; i < count; ++i) ASSERT_NEAR(got[i], g[i], 1e-4) << count << " " << i;
  }
}

/// A codec for a matrix, with a state.
struct Matrix {
  Matrix(const std::string& chain, size_t rows, size_t columns)
      : run(chain, rows * columns), codec(run.config.codec({5, rows, columns}).value()) {
    run.codec = run.config.codec({5, rows, columns}).value();
    run.state = make_state(*codec, 0, rows * columns);
  }
  Values exchange(const Values& g, uint64_t step) {
    run.context.step = step;
    std::vector<std::byte> payload(run.codec->payload_bytes(g.size()));
    run.codec->encode(run.turn(), {g.data(), 0, g.size()}, run.state, payload.data());
    std::vector<std::byte> second(run.codec->round_bytes(1, g.size(), 1));
    run.codec->next(run.turn(), {g.data(), 0, g.size()}, run.state, payload.data(), second.data());
    Values out(g.size());
    EXPECT_TRUE(
        run.codec->finish(run.turn(), {nullptr, 0, g.size()}, run.state, second, out.data(), 1)
            .ok());
    return out;
  }
  Trial run;
  std::unique_ptr<Codec> codec;
};

TEST(LowRank, SendsAMatrixOfItsRankExactly) {
  constexpr size_t kRows = 20, kColumns = 30;
  Values m(kRows * kColumns);
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kColumns; ++j)
      m[i * kColumns + j] = static_cast<float>(i + 1) * static_cast<float>(j % 5) -
                            static_cast<float>(i % 3) * static_cast<float>(j);
  }
  Matrix two("noef+lowrank:rank=2", kRows, kColumns);
  const Values got = two.exchange(m, 0);
  for (size_t i = 0; i < m.size(); ++i) ASSERT_NEAR(got[i], m[i], 1e-3) << i;
  EXPECT_EQ(two.codec->round_bytes(0, m.size(), 1), 2 * kRows * 4);
  EXPECT_EQ(two.codec->round_bytes(1, m.size(), 1), 2 * kColumns * 4);
}

TEST(LowRank, WarmStartFindsTheLargestDirectionAndTheMemoryTheRest) {
  constexpr size_t kRows = 16, kColumns = 24;
  const Values m = integers(kRows * kColumns, 4);
  Matrix with("powersgd:rank=1", kRows, kColumns);
  Values sum(m.size());
  constexpr int kSteps = 300;
  for (int step = 0; step < kSteps; ++step) {
    const Values got = with.exchange(m, static_cast<uint64_t>(step));
    for (size_t i = 0; i < m.size(); ++i) sum[i] += got[i] / kSteps;
  }
  double off = 0, all = 0;
  for (size_t i = 0; i < m.size(); ++i) {
    off += (sum[i] - m[i]) * (sum[i] - m[i]);
    all += m[i] * m[i];
  }
  EXPECT_LT(off, 0.01 * all);  // the mean of what was sent is the gradient
}

TEST(LowRank, AZeroMatrixStaysZero) {
  Matrix run("powersgd:rank=2", 8, 8);
  EXPECT_EQ(run.exchange(Values(64), 0), Values(64));
}

}  // namespace
}  // namespace hora
