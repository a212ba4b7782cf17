// Goal: no schedule, topology, program or fault makes the control plane disagree, hang or lie.
// Method: seeded random programs on virtual ranks over a virtual network and clock; the simulation
// checks every plan, every completion, every log and every blame. A seed replays a failure:
// hora_simulate SEED SEED+1.
#include "tests/simulation/simulation.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

constexpr uint64_t kSeeds = HORA_SEEDS;
constexpr int kManyRanks = HORA_MANY_RANKS;

TEST(Simulation, RandomProgramsAndFaultsKeepAllRules) {
  Report sum;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const Report report = Simulation(random_settings(seed)).run();
    ASSERT_EQ(report.failure, "") << "seed " << seed;
    sum.add(report);
  }
  // A generator that stopped to generate would let everything pass.
  EXPECT_GT(sum.plans, kSeeds * 10);
  EXPECT_GT(sum.stable_plans, kSeeds);
  EXPECT_GT(sum.errors, kSeeds);
  EXPECT_GT(sum.stalls, kSeeds);
  EXPECT_GT(sum.asks, kSeeds);
  EXPECT_GT(sum.faults, kSeeds / 10);
}

TEST(Simulation, AThousandRanksAgree) {
  Settings settings = random_settings(2);
  on_hosts_of_eight(settings, kManyRanks);
  settings.kills = settings.pauses = settings.early_leave = false;
  settings.phases = 2;
  const Report report = Simulation(settings).run();
  EXPECT_EQ(report.failure, "");
  EXPECT_GT(report.plans, 0u);
}

}  // namespace
}  // namespace hora
