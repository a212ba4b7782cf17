// Goal: each quantizer sends the numbers its paper says.
// Method: blocks of a few numbers whose codes can be worked out by hand; statistics only where the
// law is one of chance.

#include <algorithm>
#include <cmath>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

std::vector<float> sent(const std::string& chain, std::vector<float> g, uint64_t step = 0) {
  Trial run(chain, g.size());
  return run.decode(run.encode(g, step));
}

using Values = std::vector<float>;

TEST(Quantizers, LevelsAreMultiplesOfThePeakOverTheirNumber) {
  EXPECT_EQ(sent("noef+quant:bits=3,round=nearest", {3, -1, 0.4f, 1.6f}), (Values{3, -1, 0, 2}));
  EXPECT_EQ(sent("noef+quant:bits=2,round=nearest", {3, -1, -2, 0}), (Values{3, 0, -3, 0}));
  EXPECT_EQ(sent("noef+quant:bits=7,round=nearest", {63, -62, 1, 0.4f}), (Values{63, -62, 1, 0}));
}

TEST(Quantizers, EveryWidthSendsItsOwnLevelsExactly) {
  for (int bits = 2; bits <= 8; ++bits) {
    const int side = (1 << (bits - 1)) - 1;
    Values g;
    for (int i = 0; i < 510; ++i) g.push_back(static_cast<float>(i % (2 * side + 1) - side));
    const std::string tail = std::to_string(bits) + ",round=";
    EXPECT_EQ(sent("noef+quant:bits=" + tail + "nearest", g), g) << bits;
    EXPECT_EQ(sent("quant:bits=" + tail + "stochastic", g), g) << bits;
  }
}

TEST(Quantizers, EuclidsNormIsTheScaleOfTheory) {
  // |(3, 4)| = 5: with one level a side, 3 is sent as 5 in 3 of 5 draws.
  int fives = 0;
  for (uint64_t step = 0; step < 2000; ++step) {
    const Values got = sent("quant:bits=2,recon=l2", {3, 4}, step);
    ASSERT_TRUE(got[0] == 0 || got[0] == 5) << got[0];
    fives += got[0] == 5;
  }
  EXPECT_NEAR(fives, 1200, 5 * std::sqrt(2000 * 0.6 * 0.4));
}

TEST(Quantizers, MinMaxHasLevelsFromTheSmallestToTheLargest) {
  EXPECT_EQ(sent("noef+quant:bits=2,recon=minmax,round=nearest", {10, 13, 11.2f, 11.8f}),
            (Values{10, 13, 11, 12}));
  EXPECT_EQ(sent("noef+quant:bits=3,recon=minmax,round=nearest", {7, 7, 7}), (Values{7, 7, 7}));
  EXPECT_EQ(sent("noef+quant:bits=8,recon=minmax,round=nearest", {-1, 254, 3}),
            (Values{-1, 254, 3}));
}

TEST(Quantizers, NaturalLevelsAreHalves) {
  EXPECT_EQ(sent("noef+quant:bits=4,recon=natural,round=nearest", {8, -4, 3.1f, -2.9f, 0.01f}),
            (Values{8, -4, 4, -2, 0}));
  const Values g = {8, -4, 2, -1, 0.5f, 0.25f, 0.125f, 0};
  EXPECT_EQ(sent("quant:bits=4,recon=natural,round=stochastic", g), g);
}

// Every number of the formats, in a block whose peak makes the scale 1.
TEST(Quantizers, EightBitFloatsAreTheFormatsOfTheirNames) {
  struct Format {
    const char* name;
    int mantissa, bias;
    float largest;
  };
  for (const Format& f : {Format{"e4m3", 3, 7, 448}, Format{"e5m2", 2, 15, 57344}}) {
    Values g = {f.largest};
    for (int code = 1; code < 128; ++code) {
      const int exponent = code >> f.mantissa, rest = code & ((1 << f.mantissa) - 1);
      const float one = static_cast<float>(1 << f.mantissa), fraction = static_cast<float>(rest);
      const float value = exponent == 0 ? std::ldexp(fraction / one, 1 - f.bias)
                                        : std::ldexp(1 + fraction / one, exponent - f.bias);
      if (value < f.largest) g.push_back(code % 2 ? value : -value);
    }
    EXPECT_GE(g.size(), 120u);
    const std::string chain = "noef+quant:bits=8,recon=" + std::string(f.name) + ",round=";
    EXPECT_EQ(sent(chain + "nearest", g), g) << f.name;
    EXPECT_EQ(sent(chain + "stochastic", g), g) << f.name;
  }
  // Between neighbors: to the nearest, ties to even.
  EXPECT_EQ(sent("noef+quant:bits=8,recon=e4m3,round=nearest", {448, 17, 19, 17.1f, 21.9f}),
            (Values{448, 16, 20, 18, 22}));
}

TEST(Quantizers, OneBitHasTheMeansOfItsSides) {
  EXPECT_EQ(sent("noef+quant:bits=1,recon=twomean", {1, 3, -2, -6}), (Values{2, 2, -4, -4}));
  EXPECT_EQ(sent("noef+quant:bits=1,recon=l1mean", {1, 3, -2, -6}), (Values{3, 3, -3, -3}));
  EXPECT_EQ(sent("noef+quant:bits=1,recon=unit,scale=0.5", {1, -3, 0}), (Values{.5f, -.5f, .5f}));
  // Mean 5, mean distance 3: the sides part at 5.
  EXPECT_EQ(sent("noef+quant:bits=1,recon=midmean", {1, 3, 7, 9}), (Values{2, 2, 8, 8}));
}

TEST(Quantizers, DitherSendsThePeakWithBothSignsAndTheMeanIsRight) {
  double mean = 0;
  for (uint64_t step = 0; step < 2000; ++step) {
    const Values got = sent("noef+quant:bits=1,recon=dither", {4, 1, -2}, step);
    ASSERT_EQ(got[0], 4);  // the peak itself has no choice
    ASSERT_EQ(std::fabs(got[1]), 4);
    mean += got[1] / 2000;
  }
  EXPECT_NEAR(mean, 1, 5 * 4 / std::sqrt(2000.0));
}

TEST(Quantizers, LambdaIsTheSpreadOfTheBlock) {
  Values g(1024, 1.0f);  // norm 32; ln 1024 / 1024 = 0.0067690
  const Values got = sent("noef+quant:bits=1,recon=lambda,scale=2,bucket=1024", g);
  for (const float value : got)
    ASSERT_NEAR(std::fabs(value), 2 * 32 * std::sqrt(std::log(1024.0f) / 1024), 1e-5);
}

TEST(Quantizers, TruncationGoesTowardsZero) {
  EXPECT_EQ(sent("truncate", {1.0f + 0x1.fp-8f, -1.0f - 0x1.fp-8f, 3}), (Values{1, -1, 3}));
}

TEST(Quantizers, PaddingNeitherEntersAScaleNorIsSent) {
  // 33 elements fill a second row of lanes with one; the block's mean is that of 33 numbers.
  Values g(33, -1.0f);
  g[32] = -34;
  EXPECT_EQ(sent("noef+quant:bits=1,recon=l1mean", g), Values(33, -2.0f));
}

// Wen et al. 2017: E|sent - g|^2 is the sum of |g| (peak - |g|).
TEST(Quantizers, TernaryVarianceIsThatOfThePaper) {
  const auto g = gradient(200, 3);
  float peak = 0;
  for (const float v : g) peak = std::max(peak, std::fabs(v));
  double expected = 0, measured = 0;
  for (const float v : g) expected += double{std::fabs(v)} * (peak - std::fabs(v));
  for (uint64_t step = 0; step < 1000; ++step) {
    const auto got = sent("quant:bits=2,round=stochastic,bucket=tensor", g, step);
    for (size_t i = 0; i < g.size(); ++i) {
      ASSERT_TRUE(got[i] == 0 || std::fabs(got[i]) == peak);
      measured += (double{got[i]} - g[i]) * (double{got[i]} - g[i]) / 1000;
    }
  }
  EXPECT_NEAR(measured / expected, 1, 0.05);
}

}  // namespace
}  // namespace hora
