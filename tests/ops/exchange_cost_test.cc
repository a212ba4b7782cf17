// Goal: what a compressed exchange costs is what the aggregations really send and compute.
// Method: times worked out by hand; bytes compared with those that aggregate() counts; a clock that
// the test holds.

#include "ops/exchange_cost.h"

#include <array>

#include <gtest/gtest.h>

#include "ops/aggregate.h"

namespace hora {
namespace {

constexpr size_t kCount = 1 << 20;

// 10 us and 1 us for each message, 1 GB/s; inside 2 us, 10 GB/s.
Topology topology_of(size_t hosts, size_t ranks) {
  return {hosts, ranks, {2e-6, 0, 10e9}, {10e-6, 1e-6, 1e9}};
}

struct Bound {
  explicit Bound(const char* text, size_t count = kCount)
      : config(ChainConfig::parse(text).value()), codec(config.codec({5, 1, count}).value()) {}
  Aggregation how(int ranks) const { return config.aggregation(*codec, ranks); }
  ChainConfig config;
  std::unique_ptr<Codec> codec;
};

double seconds_of(const char* chain, size_t hosts, size_t ranks, const CodecSpeed& speed = {}) {
  const Bound bound(chain);
  const Topology topology = topology_of(hosts, ranks);
  return exchange_cost(topology, bound.how(static_cast<int>(topology.ranks())), bound.codec.get(),
                       speed, kCount)
      .seconds();
}

constexpr double kEach = 2e-6;  // for a compressed tensor, whatever its size

TEST(ExchangeCost, PlainValuesAreAnAllreduce) {
  const ExchangeCost cost =
      exchange_cost(topology_of(4, 1), Aggregation::kDense, nullptr, {}, kCount);
  EXPECT_DOUBLE_EQ(cost.transfer, choose(topology_of(4, 1), 4 * kCount).seconds);
  EXPECT_EQ(cost.codec, 0);
  EXPECT_EQ(exchange_cost(topology_of(1, 1), Aggregation::kDense, nullptr, {}, kCount).seconds(),
            0);
  EXPECT_DOUBLE_EQ(
      exchange_cost(topology_of(4, 1), Aggregation::kDense, nullptr, {}, kCount, DType::kBFloat16)
          .transfer,
      choose(topology_of(4, 1), 2 * kCount).seconds);
}

TEST(ExchangeCost, SumsOfPayloadsAreAnAllreduceOfEachRound) {
  EXPECT_DOUBLE_EQ(seconds_of("bf16", 4, 1), kEach + choose(topology_of(4, 1), 2 * kCount).seconds);
  const Bound lowrank("powersgd");
  double rounds = kEach;
  for (int round = 0; round < 2; ++round)
    rounds += choose(topology_of(4, 1), lowrank.codec->round_bytes(round, kCount, 4)).seconds;
  EXPECT_DOUBLE_EQ(seconds_of("powersgd", 4, 1), rounds);
  // Encoded, decoded and settled once.
  EXPECT_NEAR(seconds_of("bf16", 4, 1, {1e-9, 2e-9, 4e-9}) - seconds_of("bf16", 4, 1),
              7e-9 * kCount, 1e-12);
}

TEST(ExchangeCost, ARecodeGoesThereAndBackAndOwnersEncodeAgain) {
  // 72 bytes for 512 elements; 3/4 of them twice, and two delays with 3 messages.
  const double bytes = kCount / 512 * 72;
  EXPECT_DOUBLE_EQ(seconds_of("onebit", 4, 1), kEach + 2 * (10e-6 + 3e-6 + 0.75e-9 * bytes));
  EXPECT_NEAR(seconds_of("onebit", 4, 1, {1e-9, 2e-9, 4e-9}) - seconds_of("onebit", 4, 1),
              (1.25 + 2 * 2 + 1.25 * 4) * 1e-9 * kCount, 1e-12);
  // Of 2 ranks behind each link, the way there is direct and the way back is shared.
  EXPECT_NEAR(
      seconds_of("onebit", 2, 2),
      kEach + 10e-6 + 3e-6 + 2 * 2 * bytes / 4 * 1e-9 +
          choose(topology_of(2, 2), static_cast<size_t>(bytes), Collective::kAllgather).seconds,
      1e-12);
  EXPECT_DOUBLE_EQ(seconds_of("onebit", 1, 4), kEach + 2 * (2e-6 + bytes / 10e9));
}

TEST(ExchangeCost, AGatherGrowsWithTheRanks) {
  const Bound topk("topk");
  const auto payload = static_cast<double>(topk.codec->payload_bytes(kCount));
  EXPECT_DOUBLE_EQ(seconds_of("topk", 2, 1), kEach + 10e-6 + 1e-6 + payload * 1e-9);
  EXPECT_DOUBLE_EQ(seconds_of("topk", 8, 1), kEach + 10e-6 + 7e-6 + 7 * payload * 1e-9);
  EXPECT_NEAR(seconds_of("topk", 8, 1, {1e-9, 2e-9, 4e-9}) - seconds_of("topk", 8, 1),
              (1 + 8 * 2 + 4) * 1e-9 * kCount, 1e-12);
}

TEST(ExchangeCost, SizesThatVaryAreToldBefore) {
  const auto most = static_cast<double>(Bound("lossless").codec->payload_bytes(kCount));
  // There and back: a message with the size for each of the others, then at most the floats.
  EXPECT_DOUBLE_EQ(seconds_of("lossless", 4, 1),
                   kEach + 4 * (10e-6 + 3e-6) + 2 * 0.75e-9 * (most + 4 * 8));
  EXPECT_DOUBLE_EQ(
      seconds_of("lossless:room=0.9", 4, 1),
      kEach + 2 * (10e-6 + 3e-6) +
          2 * 0.75e-9 *
              static_cast<double>(Bound("lossless:room=0.9").codec->payload_bytes(kCount)));
  const auto gathered = static_cast<double>(Bound("strom").codec->payload_bytes(kCount));
  EXPECT_DOUBLE_EQ(seconds_of("strom", 4, 1), kEach + 2 * (10e-6 + 3e-6) + 3e-9 * (gathered + 8));
}

TEST(ExchangeCost, AMergeDoesNot) {
  constexpr size_t kMany = 1 << 24;
  const Bound topk("topk:ratio=0.1%", kMany);
  const auto seconds = [&](size_t ranks, Aggregation how) {
    return exchange_cost(topology_of(ranks, 1), how, topk.codec.get(), {}, kMany).transfer;
  };
  // Two layers of 8 ranks each, and an allgather; its bytes are those of the link's one direction.
  const double bytes = sent_bytes(Aggregation::kMerge, topk.codec.get(), kMany, 4, 64);
  EXPECT_NEAR(seconds(64, Aggregation::kMerge), 3 * 10e-6 + (7 + 7 + 63) * 1e-6 + bytes * 1e-9,
              1e-9);
  EXPECT_LT(seconds(64, Aggregation::kMerge), 0.25 * seconds(64, Aggregation::kGather));
  // Four times as many: more messages and one more layer.
  EXPECT_LT(seconds(256, Aggregation::kMerge), 1.5 * seconds(64, Aggregation::kMerge));
}

TEST(ExchangeCost, BytesAreThoseThatAggregateCounts) {
  for (const char* text : {"bf16", "onebit", "qsgd:bits=8", "signsgd", "terngrad", "drop",
                           "drop;agg=merge", "powersgd", "lossless", "strom"}) {
    const Bound bound(text);
    for (const int ranks : {2, 4, 12}) {
      Slot slot;
      slot.codec = bound.codec.get();
      slot.count = kCount;
      const auto sent = static_cast<double>(wire_bytes(bound.how(ranks), {&slot, 1}, ranks));
      // Chunks are filled up to 8 bytes, stripes are uneven.
      EXPECT_NEAR(sent_bytes(bound.how(ranks), bound.codec.get(), kCount, 4, ranks), sent,
                  0.001 * sent + 16 * ranks)
          << text;
    }
  }
  EXPECT_EQ(sent_bytes(Aggregation::kDense, nullptr, kCount, 4, 4), 6 * kCount);
}

TEST(ExchangeCost, MeasuresTheQuickestRunForEachElement) {
  // The clock moves only when it is read: 5 ns, then 3, then 7 for each step, again and again.
  int64_t time = 0;
  size_t reads = 0;
  const auto now = [&] {
    if (reads++ % 2 == 1) time += std::array<int64_t, 3>{5, 3, 7}[reads / 2 % 3];
    return time;
  };
  for (const char* chain : {"onebit", "topk", "powersgd", "lossless:room=0.9"}) {
    const Bound bound(chain, 1000);
    const CodecSpeed speed = measure_speed(*bound.codec, now, 1).value();
    EXPECT_DOUBLE_EQ(speed.encode, 3e-12) << chain;
    EXPECT_DOUBLE_EQ(speed.decode, 3e-12) << chain;
    EXPECT_DOUBLE_EQ(speed.settle, 3e-12) << chain;
  }
}

}  // namespace
}  // namespace hora
