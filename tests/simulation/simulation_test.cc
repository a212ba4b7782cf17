// Goal: no schedule, topology, program or fault makes the control plane disagree, hang or lie.
// Method: seeded random programs on virtual ranks over a virtual network and clock; the simulation
// checks every plan, every completion, every log and every blame. A seed replays a failure:
// hora_simulate SEED SEED+1. SIMULATION_SEEDS says how many there are.
#include "tests/simulation/simulation.h"

#include <cstdlib>
#include <map>

#include <gtest/gtest.h>

namespace hora {
namespace {

constexpr int kManyRanks = HORA_MANY_RANKS;

uint64_t seeds() {
  const char* text = std::getenv("SIMULATION_SEEDS");
  return text ? std::strtoull(text, nullptr, 10) : HORA_SEEDS;
}

TEST(Simulation, RandomProgramsAndFaultsKeepAllRules) {
  Report sum;
  std::map<Fault, uint64_t> happened;
  const uint64_t count = seeds();
  for (uint64_t seed = 1; seed <= count; ++seed) {
    const Settings settings = random_settings(seed);
    const Report report = simulate(settings);
    ASSERT_EQ(report.failure, "") << "seed " << seed;
    happened[settings.fault] += report.faults > 0;
    sum.add(report);
  }
  // A generator that stopped to generate would let everything pass.
  EXPECT_GT(sum.plans, count * 10);
  EXPECT_GT(sum.stable_plans, count);
  EXPECT_GT(sum.errors, count);
  EXPECT_GT(sum.stalls, count);
  EXPECT_GT(sum.asks, count);
  EXPECT_GT(sum.unnamed, count);
  EXPECT_GT(sum.carried, count * 10);
  EXPECT_GT(sum.ahead, count / 2);
  EXPECT_GT(sum.strangers, count / 2);
  EXPECT_GT(sum.epochs, count * 11 / 10);
  EXPECT_GT(sum.detections.size(), count / 4);
  using enum Fault;
  for (const Fault fault : {kKill, kKillHost, kPause, kSuspend, kCut, kVanish, kOutage, kDataError})
    EXPECT_GT(happened[fault], count / 200) << static_cast<int>(fault);
}

TEST(Simulation, AThousandRanksAgree) {
  Settings settings = random_settings(2);
  on_hosts_of_eight(settings, kManyRanks);
  settings.fault = Fault::kNone;
  settings.phases = 2;
  const Report report = simulate(settings);
  EXPECT_EQ(report.failure, "");
  EXPECT_GT(report.plans, 0u);
}

}  // namespace
}  // namespace hora
