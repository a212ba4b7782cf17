// Goal: what a rank handles in a step does not grow with the job, and the model that goes on where
// memory ends is the simulation's. Method: every rank's negotiator over a network of fixed times.
#include "tests/simulation/scaling.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

ScalingCase job(int ranks, bool star = false) {
  ScalingCase scaling;
  scaling.ranks = ranks, scaling.star = star, scaling.tensors = 300;
  return scaling;
}

TEST(Scaling, TheBusiestRankHandlesTheSameFramesInAJobOfAnySize) {
  for (const int ranks : {600, HORA_MANY_RANKS}) {
    const ScalingResult result = simulate_scaling(job(ranks), {});
    EXPECT_TRUE(result.agreed);
    // Seven ranks of its host and eight hosts below it, for one or three buckets. A root has no
    // parent; nobody has more children than it.
    EXPECT_EQ(result.steady.buckets, 3u);
    EXPECT_LE(result.steady.frames_in, 16u);
    EXPECT_LE(result.one_by_one.frames_in, 3 * 16u);
    EXPECT_LT(result.steady.bytes_mean, 80);
  }
}

TEST(Scaling, AStarsRootHandlesAFrameOfEveryRank) {
  const ScalingResult result = simulate_scaling(job(200, true), {});
  EXPECT_TRUE(result.agreed);
  EXPECT_EQ(result.steady.frames_in, 199u);
  EXPECT_EQ(result.steady.frames_out, 199u);
}

TEST(Scaling, TheModelWithoutNegotiatorsIsExact) {
  for (const bool star : {false, true}) {
    const ScalingCase scaling = job(200, star);
    const ScalingResult simulated = simulate_scaling(scaling, {});
    const auto alike = [](const StepCost& a, const StepCost& b) {
      EXPECT_EQ(a.frames_in, b.frames_in);
      EXPECT_EQ(a.frames_out, b.frames_out);
      EXPECT_EQ(a.frames_mean, b.frames_mean);
      EXPECT_EQ(a.agreed, b.agreed);
    };
    alike(model_scaling(scaling, {}, 1), simulated.steady);
    alike(model_scaling(scaling, {}, 3), simulated.one_by_one);
  }
}

}  // namespace
}  // namespace hora
