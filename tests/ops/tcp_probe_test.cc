// Goal: a link's numbers come from what arrived, and a peer that does not come costs no more than
// was allowed.
// Method: arrivals at made-up times; real connections over loopback, with a clock that turns by
// itself where time must pass.

#include <thread>

#include <gtest/gtest.h>

#include "ops/tcp/probe.h"
#include "tests/support/tcp_pairs.h"

namespace hora::tcp {
namespace {

constexpr int64_t kMillisecond = 1'000'000;

TEST(TcpProbe, ARateIsTakenBetweenArrivals) {
  Pace pace;
  EXPECT_EQ(pace.rate(), 0);
  pace.arrived(100 * kMillisecond, 50'000);  // since when is not known
  EXPECT_EQ(pace.rate(), 0);
  pace.arrived(103 * kMillisecond, 30'000);
  EXPECT_DOUBLE_EQ(pace.rate(), 30'000 / 3e-3);
  pace.arrived(104 * kMillisecond, 20'000);
  EXPECT_DOUBLE_EQ(pace.rate(), 20'000 / 1e-3);
  pace.arrived(105 * kMillisecond, 5'000);  // too few of all to count alone
  EXPECT_DOUBLE_EQ(pace.rate(), 20'000 / 1e-3);
}

TEST(TcpProbe, WaitingForTheSendersNextFlightDoesNotCount) {
  Pace pace;
  for (const int64_t begin : {0, 40, 80})
    for (int64_t k = 0; k < 10; ++k) pace.arrived((begin + k) * kMillisecond, 12'500);
  EXPECT_DOUBLE_EQ(pace.rate(), 12.5e6);
}

TEST(TcpProbe, AFewBytesSayNothing) {
  Pace pace;
  pace.arrived(0, 1);
  pace.arrived(1000, 100);
  EXPECT_EQ(pace.rate(), 0);
}

TEST(TcpProbe, BothSidesSeeThePaceOfALink) {
  support::TcpPairs pairs(2, 1);
  const tcp::Options options = support::tcp_options(0);
  LinkSample samples[2];
  constexpr int64_t kLong = 20'000 * kMillisecond;
  const auto see = [&](Rank self) {
    samples[self] = probe(pairs.end(self, 1 - self, 0), options.now, options.now() + kLong, kLong);
  };
  std::thread other(see, 1);
  see(0);
  other.join();
  for (const LinkSample& sample : samples) {
    EXPECT_GT(sample.rate, 0);
    EXPECT_GE(sample.delay, 0);
  }
}

TEST(TcpProbe, APeerThatDoesNotComeOrLeavesIsNotWaitedFor) {
  support::TcpPairs pairs(2, 2);
  int64_t time = 0;
  const auto now = [&] { return time += kMillisecond; };
  EXPECT_EQ(probe(pairs.end(0, 1, 0), now, 20 * kMillisecond, kMillisecond).rate, 0);
  EXPECT_GE(time, 20 * kMillisecond);
  EXPECT_LT(time, 40 * kMillisecond);
  pairs.end(1, 0, 1).reset();
  const int64_t before = time;
  EXPECT_EQ(probe(pairs.end(0, 1, 1), now, before + 1'000'000 * kMillisecond, kMillisecond).rate,
            0);
  EXPECT_LT(time - before, 100 * kMillisecond);
}

}  // namespace
}  // namespace hora::tcp
