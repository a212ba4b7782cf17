// Goal: a gradient whose slices lie in a plane arrives exactly once the plane was learned, ranks
// learn the same, the first vectors are an orthonormal basis, and what is outside of it is owed.
// Method: slices made of few known directions; a refresh every few steps.

#include "tests/compressors/job.h"

namespace hora {
namespace {

constexpr size_t kSlice = 64, kCount = kSlice * 40 + 13;
const char* const kChain = "basis:slice=64,rank=3,refresh=4";

/// Combinations of three directions, and a tail that belongs to no slice.
float planar(int rank, uint64_t step, size_t i) {
  if (i >= kSlice * 40) return static_cast<float>(i);
  float sum = 0;
  for (uint32_t k = 0; k < 3; ++k) {
    const auto at = static_cast<uint32_t>(i % kSlice);
    const float direction = unit_interval(random_bits({k, 1}, at)) - 0.5f;
    const auto slice = static_cast<uint32_t>(i / kSlice + 100 * step);
    sum += direction *
           (unit_interval(random_bits({k, static_cast<uint32_t>(2 + rank)}, slice)) - 0.5f);
  }
  return sum;
}

/// What rounding explains.
double close_to(size_t i) {
  return i < kSlice * 40 ? 2e-6 : 2e-6 * static_cast<double>(i);
}

std::vector<float> planar_gradient(uint64_t step) {
  std::vector<float> g(kCount);
  for (size_t i = 0; i < kCount; ++i) g[i] = planar(0, step, i);
  return g;
}

TEST(Basis, APlaneArrivesExactlyOnceItWasLearned) {
  Trial run(kChain, kCount);
  for (uint64_t step = 0; step < 6; ++step) {
    const auto g = planar_gradient(step);
    const auto payload = run.encode(g, step);
    EXPECT_EQ(payload.size(), 4 * (step % 4 == 0 ? kCount : 40u * 3 + 13)) << step;
    const auto got = run.decode(payload);
    for (size_t i = 0; i < kCount; ++i) ASSERT_NEAR(got[i], g[i], close_to(i)) << step;
  }
}

TEST(Basis, IsOrthonormal) {
  Trial run(kChain, kCount);
  run.decode(run.encode(gradient(kCount, 1)));
  const float* basis = run.state.find("basis");
  for (size_t a = 0; a < 3; ++a) {
    for (size_t b = 0; b < 3; ++b) {
      double dot = 0;
      for (size_t i = 0; i < kSlice; ++i)
        dot += double{basis[a * kSlice + i]} * basis[b * kSlice + i];
      EXPECT_NEAR(dot, a == b ? 1 : 0, 1e-5) << a << " " << b;
    }
  }
}

TEST(Basis, WhatIsOutsideIsOwedAndSentWithTheNextRefresh) {
  Trial run(std::string("ef+") + kChain, kCount);
  run.decode(run.encode(planar_gradient(0), 0));
  auto g = planar_gradient(1);
  g[70] += 5;
  const auto got = run.decode(run.encode(g, 1));
  double owed = 0;
  const auto residual = run.residual();
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_NEAR(got[i] + residual[i], g[i], 1e-5);
    owed += std::fabs(residual[i]);
  }
  EXPECT_GT(owed, 3);
  run.decode(run.encode(planar_gradient(4), 4));
  EXPECT_EQ(run.residual(), std::vector<float>(kCount));
}

TEST(Basis, IsLearnedFromTheSumSoThatRanksAgree) {
  // No rank has the slices of another; what they have in common is the plane.
  const auto lines = [](uint64_t, int rank, uint64_t step, size_t i) {
    return planar(rank, step, i);
  };
  Job job(kChain, 3, {{1, kCount}}, {});
  for (uint64_t step = 0; step < 3; ++step) {
    expect_ok(job.step(step, lines));
    for (int r = 0; r < 3; ++r) EXPECT_EQ(job.result(r, 0), job.result(0, 0)) << step;
    const auto mean = job.result(0, 0);
    for (size_t i = 0; i < kCount; ++i) {
      const double asked = (planar(0, step, i) + planar(1, step, i) + planar(2, step, i)) / 3.0;
      ASSERT_NEAR(mean[i], asked, close_to(i)) << step << " " << i;
    }
  }
}

TEST(Basis, ThatWasLostIsDrawnAndNothingIsLost) {
  Trial run(std::string("ef+") + kChain, kCount);
  const auto g = planar_gradient(1);
  const auto got = run.decode(run.encode(g, 1));  // no exchange has been made whole
  const auto residual = run.residual();
  for (size_t i = 0; i < kCount; ++i) ASSERT_NEAR(got[i] + residual[i], g[i], 5 * close_to(i));
}

TEST(Basis, ZerosAndTensorsShorterThanASliceAreSound) {
  Trial zeros(kChain, kCount);
  for (uint64_t step = 0; step < 2; ++step) {
    const auto got = zeros.decode(zeros.encode(std::vector<float>(kCount), step));
    EXPECT_EQ(got, std::vector<float>(kCount));
  }
  Trial few("gradiveq", 100);
  const auto g = gradient(100, 1);
  for (uint64_t step = 0; step < 2; ++step) EXPECT_EQ(few.decode(few.encode(g, step)), g);
}

}  // namespace
}  // namespace hora
