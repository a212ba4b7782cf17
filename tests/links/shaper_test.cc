#include "tests/links/shaper.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace hora::links {
namespace {

constexpr double kRate = 8e9;      // a nanosecond for each byte
constexpr size_t kOnWire = 24;     // between two frames
constexpr int64_t kPacket = 1000;  // ns that a packet of `packet()` takes

std::string packet(size_t to) {
  std::string bytes(Shaper::kHeader, '\0');
  bytes += Shaper::address(to);
  bytes.resize(Shaper::kHeader + kPacket - kOnWire, 'x');
  return bytes;
}

using Arrivals = std::vector<std::pair<int64_t, size_t>>;

/// When packets reach each of the hosts, and who sent them.
std::vector<Arrivals> arrivals(Shaper& shaper, size_t hosts) {
  std::vector<Arrivals> all(hosts);
  while (const auto next = shaper.next())
    for (size_t to = 0; to < hosts; ++to)
      while (const auto packet = shaper.take(*next, to)) all[to].emplace_back(*next, packet->from);
  return all;
}

TEST(Shaper, APacketTakesItsTimeAndTheDelay) {
  Shaper shaper(2, {.bits_per_second = kRate, .delay_ns = 500});
  shaper.offer(100, 0, packet(1));
  EXPECT_EQ(arrivals(shaper, 2)[1], (Arrivals{{100 + kPacket + 500, 0}}));
  EXPECT_EQ(shaper.counts(0).sent, kPacket);
  EXPECT_EQ(shaper.counts(1).received, kPacket);
}

TEST(Shaper, TwoSendersShareTheReceiversRate) {
  Shaper shaper(3, {.bits_per_second = kRate});
  for (int i = 0; i < 2; ++i)
    for (size_t from = 0; from < 2; ++from) shaper.offer(0, from, packet(2));
  EXPECT_EQ(arrivals(shaper, 3)[2], (Arrivals{{1000, 0}, {2000, 1}, {3000, 0}, {4000, 1}}));
}

// Host 0 has a long queue, whose last packet is for host 2; host 1 has none.
TEST(Shaper, APacketInItsSendersQueueHoldsNobodyUp) {
  Shaper shaper(4, {.bits_per_second = kRate});
  for (int i = 0; i < 5; ++i) shaper.offer(0, 0, packet(3));
  shaper.offer(0, 0, packet(2));
  shaper.offer(10, 1, packet(2));
  EXPECT_EQ(arrivals(shaper, 4)[2], (Arrivals{{1010, 1}, {6000, 0}}));
}

TEST(Shaper, WhatAQueueHasNoRoomForIsDropped) {
  Shaper sender(2, {.bits_per_second = kRate, .queue_bytes = 3 * kPacket});
  for (int i = 0; i < 5; ++i) sender.offer(0, 0, packet(1));
  EXPECT_EQ(arrivals(sender, 2)[1].size(), 3u);
  EXPECT_EQ(sender.counts(0).dropped, 2u);

  Shaper receiver(5, {.bits_per_second = kRate, .queue_bytes = 2 * kPacket});
  for (size_t from = 0; from < 4; ++from) receiver.offer(0, from, packet(4));
  EXPECT_EQ(arrivals(receiver, 5)[4], (Arrivals{{1000, 0}, {2000, 1}, {3000, 2}}));
  EXPECT_EQ(receiver.counts(3).dropped, 1u);
}

TEST(Shaper, ABlockedWayCarriesNothing) {
  Shaper shaper(3, {.bits_per_second = kRate});
  shaper.block(0, 1, true);
  shaper.offer(0, 0, packet(1));
  shaper.offer(0, 0, packet(2));
  EXPECT_TRUE(arrivals(shaper, 3)[2].size() == 1 && shaper.counts(0).dropped == 1);
  shaper.block(0, 1, false);
  shaper.offer(9000, 0, packet(1));
  EXPECT_EQ(arrivals(shaper, 3)[1], (Arrivals{{10000, 0}}));
}

}  // namespace
}  // namespace hora::links
