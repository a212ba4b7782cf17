// Goal: `auto` is near the best fixed choice wherever one looks, within its bound on the error,
// never slower than bf16, and the same on all ranks; what ranks chose before is kept while it is
// nearly as good.
// Method: laws for random links, speeds and sizes; choices that can be worked out by hand.

#include "ops/auto_chain.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include <gtest/gtest.h>

namespace hora {
namespace {

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed) {}
  /// Evenly in its logarithm.
  double between(double low, double high) {
    return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(engine_));
  }
  size_t count(size_t low, size_t high) {
    return static_cast<size_t>(between(static_cast<double>(low), static_cast<double>(high) + 0.99));
  }

  AutoJob job() {
    AutoJob job;
    job.topology = {count(1, 64),
                    count(1, 8),
                    kUsualInside,
                    {between(10e-6, 50e-3), between(1e-7, 1e-5), between(1e6, 5e10)}};
    job.topology.inside.bandwidth = between(1e8, 1e11);
    for (CodecSpeed& speed : job.speeds)
      speed = {between(1e-11, 1e-7), between(1e-11, 1e-7), between(1e-11, 1e-8)};
    job.bucket_bytes = count(64 << 10, 64 << 20);
    job.carry_bytes = 0;
    return job;
  }

 private:
  std::mt19937 engine_;
};

size_t number_of(std::string_view name) {
  return automatic_chain_named(name).value();
}

std::string_view choice(const AutoChain& chooser, size_t count, double error = 0.7) {
  return automatic_chains()[chooser.choose(count, DType::kFloat32, error)].name;
}

TEST(AutoChain, IsNearTheBestFixedChoiceAndNeverSlowerThanBf16) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Draw draw(seed);
    const AutoChain chooser(draw.job());
    for (int i = 0; i < 20; ++i) {
      const size_t count = draw.count(1, 100'000'000);
      const double error = draw.between(1e-4, 1);
      const DType dtype = i % 3 == 0 ? DType::kFloat16 : DType::kFloat32;
      const size_t chosen = chooser.choose(count, dtype, error);
      const double seconds = chooser.seconds(chosen, count, dtype);
      EXPECT_LE(automatic_chains()[chosen].error, error) << "seed " << seed;
      for (size_t other = 0; other < automatic_chains().size(); ++other) {
        if (automatic_chains()[other].error > error) continue;
        const bool is_bf16 = other == number_of("bf16");
        const double limit = is_bf16 ? 1 : AutoChain::kSwitch;
        EXPECT_LE(seconds, limit * chooser.seconds(other, count, dtype))
            << "seed " << seed << ", " << count << " elements, " << automatic_chains()[other].name;
      }
    }
  }
}

TEST(AutoChain, ChangesWithTheSizeOnlyWhereItMust) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Draw draw(seed);
    const AutoChain chooser(draw.job());
    size_t before = 0;
    for (size_t count = 1; count <= 1 << 24; count *= 2) {
      const size_t chosen = chooser.choose(count, DType::kFloat32, 1);
      if (chosen != before) {
        double quickest = INFINITY;
        for (size_t other = 0; other < automatic_chains().size(); ++other)
          quickest = std::min(quickest, chooser.seconds(other, count, DType::kFloat32));
        const double kept = chooser.seconds(before, count, DType::kFloat32);
        EXPECT_TRUE(kept > AutoChain::kSwitch * quickest ||
                    kept > chooser.seconds(number_of("bf16"), count, DType::kFloat32))
            << "seed " << seed << ", " << count << " elements";
      }
      before = chosen;
    }
  }
}

TEST(AutoChain, RanksThatReadTheSameNumbersChooseAlike) {
  Draw draw(7);
  AutoJob job = draw.job();
  const std::string text = text_of(job.speeds);
  job.speeds = parse_speeds(text).value();
  AutoJob again = job;
  again.speeds = parse_speeds(text).value();
  const AutoChain one(job), other(again);
  for (int i = 0; i < 50; ++i) {
    const size_t count = draw.count(1, 100'000'000);
    EXPECT_EQ(one.choose(count, DType::kFloat32, 1), other.choose(count, DType::kFloat32, 1));
  }
  EXPECT_EQ(one.table(1), other.table(1));
}

/// Four hosts of one rank, 50 us away.
AutoJob hosts(double bits_per_second) {
  AutoJob job;
  job.topology = {4, 1, kUsualInside, {50e-6, 0, bits_per_second / 8}};
  return job;
}

TEST(AutoChain, NoneWhereNonePays) {
  AutoJob fast = hosts(1e12);
  for (CodecSpeed& speed : fast.speeds) speed = {1e-9, 1e-9, 1e-9};
  AutoJob alone;
  AutoJob one_host = hosts(1e9);
  one_host.topology.ranks_per_host = 4;
  one_host.topology.hosts = 1;
  for (const AutoJob& job : {fast, alone, one_host}) {
    const AutoChain chooser(job);
    for (const size_t count : {size_t{1}, size_t{1000}, size_t{1} << 20, size_t{100'000'000}})
      EXPECT_EQ(choice(chooser, count, 1), "none") << count;
  }
}

TEST(AutoChain, ASlowLinkTakesAsFewBitsAsTheBoundAllows) {
  const AutoChain chooser(hosts(100e6));
  EXPECT_EQ(choice(chooser, 1 << 20), "onebit");
  EXPECT_EQ(choice(chooser, 1 << 20, 0.2), "int4");
  EXPECT_EQ(choice(chooser, 1 << 20, 0.02), "int8");
  EXPECT_EQ(choice(chooser, 1 << 20, 0.005), "bf16");
  EXPECT_EQ(choice(AutoChain(hosts(10e6)), 1 << 20, 0), "lossless");
}

TEST(AutoChain, OfTwoThatSendAsMuchTheMoreExactIsTaken) {
  AutoJob job = hosts(100e6);
  job.speeds[number_of("fp8")] = {};  // quicker than int8, but by less than 5 %
  const AutoChain chooser(job);
  EXPECT_LT(chooser.seconds(number_of("fp8"), 1 << 20, DType::kFloat32),
            chooser.seconds(number_of("int8"), 1 << 20, DType::kFloat32));
  EXPECT_EQ(choice(chooser, 1 << 20, 0.1), "int8");
}

TEST(AutoChain, WhatWasChosenEarlierIsKeptWhileItIsAllowedAndNearTheChoice) {
  int kept = 0, changed = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Draw draw(seed);
    const AutoChain chooser(draw.job());
    for (size_t earlier = 0; earlier < automatic_chains().size(); ++earlier) {
      const size_t count = draw.count(1, 100'000'000);
      const double error = draw.between(1e-4, 1);
      const size_t best = chooser.choose(count, DType::kFloat32, error);
      const size_t chosen = chooser.choose(count, DType::kFloat32, error, earlier);
      const bool may_stay = automatic_chains()[earlier].error <= error &&
                            chooser.seconds(earlier, count, DType::kFloat32) <=
                                AutoChain::kKeep * chooser.seconds(best, count, DType::kFloat32);
      EXPECT_EQ(chosen, may_stay ? earlier : best) << "seed " << seed;
      if (best != earlier) ++(may_stay ? kept : changed);
    }
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(changed, 100);
}

TEST(AutoChain, AChainOutlastsSpeedsThatDifferByPercentAndNotByAFactorOfThree) {
  AutoJob job = hosts(10e9);
  const size_t count = 1 << 20, int8 = number_of("int8"), fp8 = number_of("fp8");
  job.speeds[number_of("bf16")] = {5e-9, 5e-9, 0};
  const auto with = [&](double of_int8, double of_fp8) {
    job.speeds[int8] = {of_int8 * 1e-9, of_int8 * 0.4e-9, of_int8 * 0.1e-9};
    job.speeds[fp8] = {of_fp8 * 1e-9, of_fp8 * 0.4e-9, of_fp8 * 0.1e-9};
    return AutoChain(job);
  };
  const double bound = 0.05;
  const AutoChain first = with(1, 1.15), second = with(1.15, 1), third = with(3, 1);
  ASSERT_EQ(choice(first, count, bound), "int8");
  ASSERT_EQ(choice(second, count, bound), "fp8") << "by itself it would flip";
  EXPECT_EQ(second.choose(count, DType::kFloat32, bound, int8), int8);
  EXPECT_EQ(third.choose(count, DType::kFloat32, bound, int8), fp8);
  EXPECT_NE(second.choose(count, DType::kFloat32, 0.005, int8), int8) << "beyond the bound";
}

TEST(AutoChain, WhatTravelsWithControlIsLeftAlone) {
  AutoJob job = hosts(1e6);
  job.carry_bytes = 0;
  EXPECT_NE(choice(AutoChain(job), 256), "none");
  job.carry_bytes = 4096;
  EXPECT_EQ(choice(AutoChain(job), 256), "none");
  EXPECT_NE(choice(AutoChain(job), 257), "none");
  EXPECT_EQ(AutoChain(job).choose(256, DType::kFloat32, 0.7, number_of("onebit")), 0u);
}

TEST(AutoChain, LargeTensorsTravelInBuckets) {
  AutoJob job = hosts(1e9);
  job.bucket_bytes = 4 << 20;
  const AutoChain chooser(job);
  for (const size_t chain : {number_of("none"), number_of("onebit")}) {
    const auto seconds = [&](size_t count) {
      return chooser.seconds(chain, count, DType::kFloat32);
    };
    EXPECT_DOUBLE_EQ(seconds(5 << 20), 5 * seconds(1 << 20));
    EXPECT_DOUBLE_EQ(seconds((2 << 20) + 1000), 2 * seconds(1 << 20) + seconds(1000));
  }
}

TEST(AutoChain, TheTableSaysWhatIsChosen) {
  const AutoChain chooser(hosts(1e9));
  const std::string table = chooser.table(0.05);
  EXPECT_TRUE(
      table.starts_with("auto:error=0.05, float32 over 4 ranks, 1 on each of 4 hosts, "
                        "1 Gbit/s, 50 us one way\n"))
      << table;
  EXPECT_EQ(table.find("onebit"), table.npos) << table;
  const size_t row = table.find("\n       16M");
  ASSERT_NE(row, table.npos) << table;
  const std::string line = table.substr(row + 1, table.find('\n', row + 1) - row - 1);
  EXPECT_TRUE(line.ends_with("  " + std::string(choice(chooser, 16 << 20, 0.05)))) << line;
}

TEST(CodecSpeeds, AreTextAndBack) {
  CodecSpeeds speeds = usual_speeds();
  speeds[2] = {1.25e-9, 0, 0.001e-9};
  const std::string text = text_of(speeds);
  EXPECT_NE(text.find("bf16=1.25/0/0.001,"), text.npos) << text;
  EXPECT_EQ(text_of(parse_speeds(text).value()), text);
  EXPECT_EQ(text_of(parse_speeds("usual").value()), text_of(usual_speeds()));
  const CodecSpeeds some = parse_speeds("onebit=1/2/3").value();
  EXPECT_DOUBLE_EQ(some[number_of("onebit")].decode, 2e-9);
  EXPECT_EQ(some[2].encode, usual_speeds()[2].encode);
}

TEST(CodecSpeeds, OfTwoRanksTheSlowerCounts) {
  const CodecSpeeds both = slower(parse_speeds("bf16=1/5/3,fp8=1/1/1").value(),
                                  parse_speeds("bf16=2/4/3,fp8=1/1/2").value());
  EXPECT_EQ(text_of(both), text_of(parse_speeds("bf16=2/5/3,fp8=1/1/2").value()));
}

TEST(CodecSpeeds, MistakesArePointedAt) {
  const auto message = [](const char* text) { return parse_speeds(text).status().message(); };
  EXPECT_EQ(message("bf16=1/2/3,onebat=1/2/3"),
            "character 12: no chain of auto is 'onebat'; did you mean 'onebit'?");
  EXPECT_EQ(message("mesure"), "character 1: no chain of auto is 'mesure'");
  for (const char* text : {"bf16", "bf16=", "bf16=1", "bf16=1/2", "bf16=1/2/3/4", "bf16=1/2/-3",
                           "bf16=1/2/x", "bf16=1/2/inf", "bf16=1/2/3 "})
    EXPECT_EQ(message(text).substr(0, 43), "character 5: 'bf16' needs nanoseconds for e") << text;
}

TEST(CodecSpeeds, OfThisMachineArePositive) {
  int64_t time = 0;
  const CodecSpeeds speeds = measure_speeds([&] { return time += 1000; }, 1);
  ASSERT_EQ(speeds.size(), automatic_chains().size());
  for (size_t i = 1; i < speeds.size(); ++i) EXPECT_GT(speeds[i].encode, 0) << i;
}

}  // namespace
}  // namespace hora
