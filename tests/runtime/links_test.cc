// Goal: hosts measure in pairs that do not meet twice or at once, and all ranks have one result.
// Method: laws of the tournament for many sizes; texts there and back, and texts that are none.

#include "runtime/links.h"

#include <set>

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Links, ASettingIsAWordOrALink) {
  EXPECT_TRUE(parse_links("measure")->measure);
  EXPECT_FALSE(parse_links("none")->measure);
  EXPECT_EQ(parse_links("none")->given.bandwidth, kUsualAcross.bandwidth);
  const auto given = parse_links("100 Mbit,20ms");
  ASSERT_TRUE(given);
  EXPECT_FALSE(given->measure);
  EXPECT_EQ(given->given.bandwidth, 12.5e6);
  EXPECT_DOUBLE_EQ(given->given.latency, kUsualAcross.latency + 20e-3);
  for (const char* text : {"", "Measure", "1G", "20ms", "1Gbit,", "-1Gbit", "0gbit"})
    EXPECT_FALSE(parse_links(text)) << text;
}

TEST(Links, InEachRoundEveryHostHasOnePartnerWhoHasIt) {
  for (int hosts = 2; hosts <= 33; ++hosts) {
    std::set<std::pair<int, int>> met;
    for (int round = 0; round < hosts - 1; ++round) {
      int pausing = 0;
      for (int host = 0; host < hosts; ++host) {
        const auto partner = partner_of(host, round, hosts);
        if (!partner) {
          ++pausing;
          continue;
        }
        EXPECT_NE(*partner, host);
        EXPECT_EQ(partner_of(*partner, round, hosts), host) << hosts << " " << round;
        EXPECT_TRUE(met.emplace(host, *partner).second) << "twice: " << host << " " << *partner;
      }
      EXPECT_EQ(pausing, hosts % 2) << hosts << " " << round;
    }
  }
}

TEST(Links, EveryHostMeasuresInTheRoundsThereAre) {
  EXPECT_EQ(rounds_of(2), 1);
  EXPECT_EQ(rounds_of(3), 2);
  EXPECT_EQ(rounds_of(1000), 3);
  for (int hosts = 2; hosts <= 50; ++hosts)
    for (int host = 0; host < hosts; ++host) {
      int partners = 0;
      for (int round = 0; round < rounds_of(hosts); ++round)
        partners += partner_of(host, round, hosts).has_value();
      EXPECT_GE(partners, 1) << host << " of " << hosts;
    }
}

TEST(Links, TheSlowestLinkHasTheLongestDelayAndTheLowestRate) {
  const std::vector<tcp::LinkSample> samples = {{1e-3, 0}, {20e-3, 2e6}, {2e-3, 1e6}};
  const LinkCost cost = slowest(samples, kUsualAcross);
  EXPECT_DOUBLE_EQ(cost.latency, kUsualAcross.latency + 20e-3);
  EXPECT_EQ(cost.bandwidth, 1e6);
  EXPECT_EQ(slowest({}, kUsualAcross).bandwidth, kUsualAcross.bandwidth);
  EXPECT_EQ(slowest(std::vector<tcp::LinkSample>{{1e-3, 0}}, kUsualAcross).bandwidth,
            kUsualAcross.bandwidth);
}

TEST(Links, NumbersGoThroughTheStoreUnchanged) {
  const std::vector<tcp::LinkSample> samples = {{1.0 / 3, 1e9 / 7}, {0, 0}};
  const auto back = parse_samples(text_of(samples));
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back[0].delay, 1.0 / 3);
  EXPECT_EQ(back[0].rate, 1e9 / 7);
  const LinkCost cost{1.0 / 3, 1e-6 / 7, 1e9 / 11};
  const auto same = parse_cost(text_of(cost));
  ASSERT_TRUE(same);
  EXPECT_EQ(same->latency, cost.latency);
  EXPECT_EQ(same->overhead, cost.overhead);
  EXPECT_EQ(same->bandwidth, cost.bandwidth);
}

TEST(Links, WhatIsNoNumberIsLeftOut) {
  EXPECT_EQ(parse_samples("1 2\nx\n1\n1 2 3\n-1 2\ninf 2\n\n3 4").size(), 2u);
  for (const char* text : {"", "1 2", "1 2 0", "1 2 nan", "1 2 3 4", "1,2,3"})
    EXPECT_FALSE(parse_cost(text)) << text;
}

}  // namespace
}  // namespace hora
