// Goal: whatever the codec, all ranks end with the same bytes, nothing is lost (what went in, with
// what was owed, is what came out with what is owed now, over ranks and owners), an exchange that
// fails leaves everything owed, and buckets or split tensors change nothing.
// Method: ranks over the local backend, driven in turn by one thread (and once by one thread each,
// for TSan); tensors of 0, 1 and awkward counts; a communicator that fails its k-th call.

#include <map>
#include <tuple>

#include "tests/compressors/job.h"

namespace hora {
namespace {

const std::vector<std::string> kChains = {"onebit",
                                          "onebit;agg=gather",
                                          "quant:bits=4,round=stochastic",
                                          "drop",
                                          "drop;agg=merge",
                                          "ef+topk:ratio=30%;agg=merge",
                                          "ef+topk:ratio=5%+quant:bits=4;agg=merge",
                                          "dgc:ratio=5%;agg=merge",
                                          "ef+bf16",
                                          "ef+fp16",
                                          "fp16",
                                          "bf16",
                                          "ef+topk:ratio=5%+quant:bits=4",
                                          "ef+topk:ratio=5%+golomb:k=4",
                                          "terngrad",
                                          "terngrad:scale=1",
                                          "ef+quant:bits=4,round=nearest,scale=shared",
                                          "fp8",
                                          "hadamard:block=256+onebit",
                                          "strom:tau=0.5",
                                          "dryden:pi=16",
                                          "dgc:ratio=5%",
                                          "randk:ratio=5%",
                                          "ef+randk:ratio=5%",
                                          "powersgd",
                                          "ef:ref=global+powersgd",
                                          "lossless",
                                          "ef+mask:ratio=5%",
                                          "ef+basis:slice=64,rank=8,refresh=2",
                                          "signsgd",
                                          "noef+quant:bits=1,recon=l1mean"};

class AggregateTest : public testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(AggregateTest, AllRanksHoldTheSameBytes) {
  const auto [text, ranks] = GetParam();
  Job job(text, ranks, kTensors, {});
  for (uint64_t s = 0; s < 3; ++s) expect_ok(job.step(s, element));
  for (int r = 1; r < ranks; ++r) {
    for (size_t t = 0; t < job.tensors(); ++t) {
      const auto a = job.bytes(0, t), b = job.bytes(r, t);
      ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << r << " " << t;
    }
  }
}

TEST_P(AggregateTest, NothingIsLostOverRanksAndOwners) {
  const auto [text, ranks] = GetParam();
  Job job(text, ranks, kTensors, {.prescale = 0.5});
  if (!job.conserves()) GTEST_SKIP() << "nothing is kept";
  for (uint64_t s = 0; s < 6; ++s) {
    std::vector<std::vector<double>> in(job.tensors());
    for (size_t t = 0; t < job.tensors(); ++t) {
      for (size_t i = 0; i < job.count(t); ++i) {
        double sum = job.owed(t, i);
        for (int r = 0; r < ranks; ++r) sum += 0.5 * element(job.id(t), r, s, i);
        in[t].push_back(sum);
      }
    }
    expect_ok(job.step(s, element));
    for (size_t t = 0; t < job.tensors(); ++t) {
      const auto mean = job.result(0, t);
      for (size_t i = 0; i < job.count(t); ++i) {
        ASSERT_NEAR(in[t][i], double{mean[i]} * ranks + job.owed(t, i), 1e-4)
            << s << " " << t << " " << i;
      }
    }
  }
}

TEST_P(AggregateTest, AFailedExchangeLeavesEverythingOwed) {
  const auto [text, ranks] = GetParam();
  for (int fails = 0; fails < 4; ++fails) {
    for (const bool after : {false, true}) {
      Job probe(text, ranks, kTensors, {});
      if (!probe.conserves()) GTEST_SKIP() << "nothing is kept";
      expect_ok(probe.step(0, element));
      const int per_step = probe.calls();
      if (fails >= per_step) continue;
      Job job(text, ranks, kTensors, {.fails = per_step + fails, .after = after});
      expect_ok(job.step(0, element));
      std::vector<std::vector<double>> in(job.tensors());
      for (size_t t = 0; t < job.tensors(); ++t) {
        for (size_t i = 0; i < job.count(t); ++i) {
          double sum = job.owed(t, i);
          for (int r = 0; r < ranks; ++r) sum += element(job.id(t), r, 1, i);
          in[t].push_back(sum);
        }
      }
      for (const Status& outcome : job.step(1, element)) ASSERT_EQ(outcome.code(), Code::kPeerLost);
      for (size_t t = 0; t < job.tensors(); ++t) {
        for (size_t i = 0; i < job.count(t); ++i)
          ASSERT_NEAR(in[t][i], job.owed(t, i), 1e-4) << t << " " << i;
      }
    }
  }
}

TEST_P(AggregateTest, BucketsDoNotChangeTheResult) {
  const auto [text, ranks] = GetParam();
  EXPECT_EQ(results_after(text, ranks, {}, 3), results_after(text, ranks, {.fused = false}, 3));
}

TEST_P(AggregateTest, SplitTensorsDoNotChangeTheResult) {
  const auto [text, ranks] = GetParam();
  const std::vector<TensorSpec> tensors = {{1, 5000}, {6, 70000}};
  const Trial largest(text, tensors[1].count);
  if (largest.codec->traits().sparse) GTEST_SKIP() << "selects over the whole piece";
  const size_t least = Job(text, ranks, {tensors[1]}, {}).granule();
  const size_t granule = (1023 / least + 1) * least;
  const auto whole = results_after(text, ranks, {}, 2, tensors);
  EXPECT_EQ(whole, results_after(text, ranks, {.split = granule}, 2, tensors));
  EXPECT_EQ(whole, results_after(text, ranks, {.fused = false, .split = 18 * granule}, 2, tensors));
}

TEST_P(AggregateTest, NotANumberReachesAllAndTheOthersTakeTheirMessagesBack) {
  const auto [text, ranks] = GetParam();
  Job job(text, ranks, kTensors, {});
  expect_ok(job.step(0, element));
  std::vector<double> in;
  for (size_t i = 0; job.conserves() && i < job.count(0); ++i) {
    double sum = job.owed(0, i);
    for (int r = 0; r + 1 < ranks; ++r) sum += element(job.id(0), r, 1, i);
    in.push_back(sum);
  }
  expect_ok(job.step(1, [&](uint64_t tensor, int rank, uint64_t step, size_t i) {
    const bool bad = tensor == 1 && i == 700 && rank + 1 == ranks;
    return bad ? std::nanf("") : element(tensor, rank, step, i);
  }));
  for (int r = 0; r < ranks; ++r) {
    const auto result = job.result(r, 0);
    ASSERT_TRUE(std::isnan(result[700]));
    for (const float v : job.result(r, 1)) ASSERT_TRUE(is_finite(v));
    for (size_t i = 0; i < in.size(); ++i) {
      if (!std::isnan(result[i])) continue;
      ASSERT_NEAR(in[i], job.owed(0, i), 1e-4) << i;  // all but the poisoned rank's own gradient
    }
  }
}

TEST_P(AggregateTest, HalfGradientsAreWidenedAndRoundedOnce) {
  const auto [text, ranks] = GetParam();
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    Job narrow_job(text, ranks, kTensors, {.dtype = dtype}), wide_job(text, ranks, kTensors, {});
    std::map<std::tuple<uint64_t, int, uint64_t>, std::vector<float>> inputs;
    const auto rounded = [&](uint64_t tensor, int rank, uint64_t step, size_t i) {
      std::vector<float>& values = inputs[{tensor, rank, step}];
      if (values.empty()) {  // all at once: a call for each takes a minute for all chains
        for (size_t k = 0; k < kMostElements; ++k) values.push_back(element(tensor, rank, step, k));
        std::vector<std::byte> halves(values.size() * 2);
        narrow(dtype, values.data(), halves.data(), values.size());
        widen(dtype, halves.data(), values.data(), values.size());
      }
      return values[i];
    };
    for (uint64_t s = 0; s < 2; ++s) {
      expect_ok(narrow_job.step(s, rounded));
      expect_ok(wide_job.step(s, rounded));
    }
    for (size_t t = 0; t < kTensors.size(); ++t) {
      std::vector<std::byte> expected(kTensors[t].count * 2);
      narrow(dtype, wide_job.result(0, t).data(), expected.data(), kTensors[t].count);
      const auto got = narrow_job.bytes(0, t);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin(), expected.end()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AggregateTest,
                         testing::Combine(testing::ValuesIn(kChains),
                                          testing::Values(1, 2, 3, 5, 8)),
                         [](const auto& test) {
                           return identifier(std::get<0>(test.param)) + "_n" +
                                  std::to_string(std::get<1>(test.param));
                         });

// Numbers of ranks that make butterflies of several layers.
INSTANTIATE_TEST_SUITE_P(Butterflies, AggregateTest,
                         testing::Combine(testing::Values("ef+topk:ratio=5%;agg=merge"),
                                          testing::Values(4, 9, 11, 12, 17)),
                         [](const auto& test) {
                           return "n" + std::to_string(std::get<1>(test.param));
                         });

// Payloads whose sizes vary.
INSTANTIATE_TEST_SUITE_P(Varying, AggregateTest,
                         testing::Combine(testing::Values("ef+lossless", "ef+rle;agg=gather",
                                                          "ef+topk:ratio=5%+lossless"),
                                          testing::Values(1, 3)),
                         [](const auto& test) {
                           return identifier(std::get<0>(test.param)) + "_n" +
                                  std::to_string(std::get<1>(test.param));
                         });

// Sums that come back by another chain than gradients go.
INSTANTIATE_TEST_SUITE_P(
    WaysDown, AggregateTest,
    testing::Combine(testing::Values("onebit;down=fp8", "fp8;down=onebit", "onebit;down=noef+bf16",
                                     "drop;down=onebit;agg=recode", "drop;down=drop:ratio=10%",
                                     "hadamard:block=1k+onebit;down=onebit",
                                     "onebit;down=ef+lossless"),
                     testing::Values(1, 3)),
    [](const auto& test) {
      return identifier(std::get<0>(test.param)) + "_n" + std::to_string(std::get<1>(test.param));
    });

TEST(Aggregate, TheWayDownIsWhatTheOwnerEncodes) {
  const std::vector<TensorSpec> one = {{1, 40000}};
  Job up("onebit;down=lossless", 4, one, {.op = ReduceOp::kSum});
  Job both("onebit", 4, one, {.op = ReduceOp::kSum});
  expect_ok(up.step(0, element));
  expect_ok(both.step(0, element));
  const auto exact = up.result(0, 0), coarse = both.result(0, 0);
  for (size_t i = 0; i < exact.size(); ++i) {
    double sum = 0;
    for (int r = 0; r < 4; ++r) sum += element(1, r, 0, i);
    ASSERT_NEAR(sum, double{exact[i]} + up.owed(0, i), 1e-4) << "all that is owed is the ranks'";
    ASSERT_NEAR(sum, double{coarse[i]} + both.owed(0, i), 1e-4);
  }
  EXPECT_NE(exact, coarse);
  EXPECT_GT(up.sent(), 10 * both.sent());
}

/// Every rank's large elements are the same ones, so that merged messages have room for all.
float agreed(uint64_t tensor, int rank, uint64_t step, size_t i) {
  const float x = element(tensor, rank, step, i);
  return i * 7 % 64 == 3 ? std::copysign(100 + std::fabs(x), x) : x;
}

TEST(Merge, GivesTheBitsOfAGatherWhereAllFits) {
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const Options sum{.op = ReduceOp::kSum};
    Job gather("topk:ratio=1%;agg=gather", ranks, kTensors, sum);
    Job merge("topk:ratio=1%;agg=merge", ranks, kTensors, sum);
    expect_ok(gather.step(0, agreed));
    expect_ok(merge.step(0, agreed));
    for (size_t t = 0; t < kTensors.size(); ++t) {
      EXPECT_EQ(gather.result(0, t), merge.result(0, t)) << ranks << " ranks, tensor " << t;
      for (size_t i = 0; i < kTensors[t].count; ++i)
        ASSERT_EQ(gather.owed(t, i), merge.owed(t, i)) << ranks << " " << t << " " << i;
    }
  }
}

TEST(Merge, IntegersAddUpExactlyThroughSeveralLayers) {
  const auto integer = [](uint64_t, int rank, uint64_t, size_t i) {
    return i % 16 == 5 ? static_cast<float>(1000 + 10 * rank + static_cast<int>(i % 9)) : 0.0f;
  };
  for (const auto& [ranks, degrees] : {std::pair(9, ""),
                                       {12, ""},
                                       {16, ""},
                                       {17, ""},
                                       {12, ":degrees=2x3x2"},
                                       {16, ":degrees=4x4"}}) {
    Job job(std::string("topk:ratio=7%;agg=merge") + degrees, ranks, {{1, 16000}},
            {.op = ReduceOp::kSum});
    expect_ok(job.step(0, integer));
    const auto sum = job.result(0, 0);
    for (size_t i = 0; i < sum.size(); ++i) {
      float expected = 0;
      for (int r = 0; r < ranks; ++r) expected += integer(1, r, 0, i);
      ASSERT_EQ(sum[i], expected) << ranks << " " << i;
    }
  }
}

TEST(Merge, WhatHasNoRoomStaysOwed) {
  // All is large in one run of elements, so that its owner has room for a part of it only.
  const auto crowded = [](uint64_t, int rank, uint64_t, size_t i) {
    return i < 32 ? static_cast<float>(1 + i + 100 * static_cast<size_t>(rank)) : 0.0f;
  };
  constexpr int kRanks = 4;
  constexpr size_t kCount = 32 * 40;
  Job job("topk:ratio=2.5%;agg=merge", kRanks, {{1, kCount}}, {.op = ReduceOp::kSum});
  expect_ok(job.step(0, crowded));
  const auto sum = job.result(0, 0);
  size_t kept = 0;
  for (size_t i = 0; i < kCount; ++i) {
    double asked = 0;
    for (int r = 0; r < kRanks; ++r) asked += crowded(1, r, 0, i);
    ASSERT_EQ(double{sum[i]} + job.owed(0, i), asked) << i;
    kept += job.owed(0, i) != 0;
  }
  EXPECT_EQ(kept, 32u - (2 * 32 / kRanks + 4));  // the message's room: twice an even share, and 4
  const auto none = [](uint64_t, int, uint64_t, size_t) { return 0.0f; };
  expect_ok(job.step(1, none));
  for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(job.owed(0, i), 0) << i;
}

TEST(Merge, SumsThatOverflowAreNotANumberAndAllStaysOwed) {
  const auto huge = [](uint64_t, int, uint64_t, size_t i) { return i == 40 ? 3e38f : 1.0f; };
  Job job("topk:ratio=1%;agg=merge", 3, {{1, 1000}, {2, 500}}, {.op = ReduceOp::kSum});
  expect_ok(job.step(0, [&](uint64_t tensor, int rank, uint64_t step, size_t i) {
    return tensor == 1 ? huge(tensor, rank, step, i) : 1.0f;
  }));
  for (int r = 0; r < 3; ++r) {
    for (const float x : job.result(r, 0)) ASSERT_TRUE(std::isnan(x));
    for (const float x : job.result(r, 1)) ASSERT_TRUE(x == 3 || x == 0);
  }
  EXPECT_EQ(job.owed(0, 40), 3.0 * double{3e38f});
  EXPECT_EQ(job.owed(0, 41), 3.0);
}

TEST(Merge, BytesDoNotGrowWithTheRanks) {
  const std::vector<TensorSpec> one = {{1, 1 << 18}};
  const auto sent = [&](const char* text, int ranks) {
    Job job(text, ranks, one, {});
    expect_ok(job.step(0, element));
    return job.sent();
  };
  EXPECT_LT(sent("topk:ratio=0.5%;agg=merge", 17), sent("topk:ratio=0.5%;agg=gather", 17) / 1.8);
  EXPECT_LT(sent("topk:ratio=0.5%;agg=merge", 17), 1.1 * sent("topk:ratio=0.5%;agg=merge", 8));
  // Never much more than the elements themselves would be.
  EXPECT_LT(sent("topk:ratio=90%;agg=merge", 4), 1.01 * 2 * 3 / 4 * 4 * (1 << 18));
}

TEST(Aggregate, ThreadsGiveTheSameBits) {
  for (const char* text : {"onebit", "drop", "drop;agg=merge", "fp16"}) {
    EXPECT_EQ(results_after(text, 3, {}, 3), results_after(text, 3, {.threads = true}, 3)) << text;
  }
}

TEST(Aggregate, SixteenBitSumsAndMeansOfIntegersAreExact) {
  const auto integer = [](uint64_t, int rank, uint64_t, size_t i) {
    return static_cast<float>(static_cast<int>(i % 9) + rank);
  };
  for (const char* text : {"fp16", "bf16", "ef+fp16", "fp16;agg=gather", "fp16;agg=recode"}) {
    Job sum(text, 4, kTensors, {.op = ReduceOp::kSum, .prescale = 2, .postscale = 0.25});
    expect_ok(sum.step(0, integer));
    Job mean(text, 4, kTensors, {.op = ReduceOp::kAverage});
    expect_ok(mean.step(0, integer));
    const auto total = sum.result(1, 0), average = mean.result(1, 0);
    for (size_t i = 0; i < total.size(); ++i) {
      ASSERT_EQ(total[i], 0.5f * static_cast<float>(4 * (i % 9) + 6)) << text;
      ASSERT_EQ(average[i], static_cast<float>(i % 9) + 1.5f) << text;
    }
  }
}

TEST(Aggregate, OneBitSendsAThirtiethOfTheBytes) {
  Job job("onebit", 4, {{1, 1 << 20}}, {});
  expect_ok(job.step(0, element));
  const uint64_t dense = 2 * (uint64_t{4} << 20) * 3 / 4;
  EXPECT_LT(job.sent(), dense / 28);
  EXPECT_GT(job.sent(), dense / 29);
}

/// Ranks disagree about the minimum of sum |x - target|^2 / 2 with curvatures from 0.02 to 1;
/// gradient descent with a fixed step. Gives the distance of the last quarter's mean from the
/// optimum.
double distance_after(const std::string& text, int ranks, int steps) {
  constexpr size_t kCount = 1024;
  const auto curvature = [](size_t i) { return 0.02f + 0.98f * static_cast<float>(i % 31) / 30; };
  const auto target = [](int rank, size_t i) {
    return static_cast<float>(i % 13) - 6 + 40 * element(77, rank, 0, i);
  };
  std::vector<float> x(kCount), late(kCount);
  Job job(text, ranks, {{1, kCount}}, {});
  for (int s = 0; s < steps; ++s) {
    expect_ok(job.step(static_cast<uint64_t>(s), [&](uint64_t, int rank, uint64_t, size_t i) {
      return curvature(i) * (x[i] - target(rank, i));
    }));
    const auto mean = job.result(0, 0);
    for (size_t i = 0; i < kCount; ++i) {
      x[i] -= 0.3f * mean[i];
      if (s >= steps - steps / 4) late[i] += x[i] / static_cast<float>(steps / 4);
    }
  }
  double sum = 0;
  for (size_t i = 0; i < kCount; ++i) {
    double optimum = 0;
    for (int r = 0; r < ranks; ++r) optimum += double{target(r, i)} / ranks;
    sum += (late[i] - optimum) * (late[i] - optimum);
  }
  return std::sqrt(sum);
}

TEST(Training, MemoryFindsTheOptimumThatBiasMisses) {
  for (const char* chain :
       {"quant:bits=1,recon=twomean", "quant:bits=1,recon=l1mean", "quant:bits=1,recon=midmean",
        "topk:ratio=5%", "topk:ratio=5%;agg=merge", "mask:ratio=25%",
        "proportion:pi=20+quant:bits=1,recon=twomean"}) {
    const std::string with = std::string("ef+") + chain, without = std::string("noef+") + chain;
    const double good = distance_after(with, 4, 1500), bad = distance_after(without, 4, 1500);
    RecordProperty(identifier(chain), std::to_string(good) + " against " + std::to_string(bad));
    EXPECT_LT(good, 0.2 * bad) << chain;
  }
}

TEST(Training, MomentumCorrectionFindsItToo) {
  const double good = distance_after("mc:m=0.5+topk:ratio=5%", 4, 1500);
  const double bad = distance_after("noef+topk:ratio=5%", 4, 1500);
  EXPECT_LT(good, 0.2 * bad) << good << " against " << bad;
}

// Unbiased chains need no memory: what they do wrong averages out.
TEST(Training, UnbiasedChainsNeedNoMemory) {
  const double bad = distance_after("noef+quant:bits=2,round=nearest", 4, 1500);
  for (const char* chain : {"quant:bits=4,round=stochastic", "qsgd:recon=l2", "natural",
                            "hadamard:block=256+quant:bits=4", "quant:bits=4,recon=minmax"}) {
    const double good = distance_after(chain, 4, 1500);
    EXPECT_LT(good, 0.2 * bad) << chain << ": " << good << " against " << bad;
  }
}

}  // namespace
}  // namespace hora
