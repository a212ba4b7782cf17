// Goal: lossless chains give every float back to the bit, and what they save is where it should be.
// Method: floats of every kind; payloads' lengths against what is known of the input.

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

using Values = std::vector<float>;

Values every_kind() {
  Values g = gradient(9000, 1);
  for (size_t i = 0; i < 700; ++i) g[5000 + i] = 0;
  g[0] = -0.0f, g[1] = 1e-42f, g[2] = -1e-45f, g[3] = 3e38f, g[4] = INFINITY, g[5] = -INFINITY;
  g[4095] = 0, g[4096] = 0;
  return g;
}

TEST(Lossless, GivesEveryFloatBackToTheBit) {
  for (const char* chain : {"lossless", "rle"}) {
    const Values g = every_kind();
    Trial run(chain, g.size());
    const auto payload = run.encode(g);
    Values got(g.size(), -0.0f);  // what -0 is added to stays what it is
    ASSERT_TRUE(run.codec->decode_add(run.turn(), payload, 0, got, 1.0f).ok());
    for (size_t i = 0; i < g.size(); ++i) {
      if (g[i] != 0) ASSERT_EQ(bits_of(got[i]), bits_of(g[i])) << chain << " " << i;
    }
  }
}

TEST(Lossless, ANotANumberStaysOne) {
  for (const char* chain : {"lossless", "rle"}) {
    Trial run(chain, 3);
    uint32_t strange = 0x7FC00005u;  // what rle takes for a run of five zeros
    const auto got = run.decode(run.encode(Values{1, float_of(strange), 2}));
    EXPECT_EQ(got[0], 1);
    EXPECT_TRUE(std::isnan(got[1]));
    EXPECT_EQ(got[2], 2);
  }
}

TEST(Lossless, NormalNumbersTakeAboutTwentySevenBits) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  Values g(65536);
  for (float& v : g) v = normal(engine);
  Trial run("lossless", g.size());
  EXPECT_LT(run.encode(g).size(), g.size() * 109 / 32);
}

TEST(Lossless, WhatDoesNotFitStaysOwedToTheBit) {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  Values g(20000);
  for (float& v : g) v = normal(engine);
  for (const double room : {0.5, 0.6, 0.75, 0.86}) {
    Trial run("ef+lossless:room=" + std::to_string(room), g.size());
    const auto payload = run.encode(g);
    EXPECT_LE(payload.size(), static_cast<size_t>(room * 80000) + 5 * 6);
    const auto sent = run.decode(payload), owed = run.residual();
    float largest = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      ASSERT_EQ(g[i], sent[i] + owed[i]) << room << " " << i;
      largest = std::max(largest, std::fabs(owed[i] / g[i]));
    }
    // Of 32 bits some 4 say sign and exponent; the rest, less one for their spread, are mantissa.
    EXPECT_LT(largest, std::exp2(-(room * 32 - 6))) << room;
    if (room > 0.85) EXPECT_EQ(largest, 0);
  }
}

TEST(Lossless, ZerosTakeABitAndRunsOfThemAWord) {
  Values g(65536);
  Trial exponents("lossless", g.size()), runs("rle", g.size());
  EXPECT_LT(exponents.encode(g).size(), g.size() / 8 + 16 * 16);
  EXPECT_EQ(runs.encode(g).size(), 8u);
  for (size_t i = 0; i < g.size(); i += 1024) g[i] = 1.5f;
  EXPECT_EQ(runs.encode(g).size(), 4u + 64 * 8);  // a number, then a run
}

TEST(Lossless, RandomBitsAreNeverLongerThanTheirRoom) {
  std::mt19937 engine(2);
  for (const size_t count : {1u, 31u, 4096u, 4097u, 20000u}) {
    Values g(count);
    for (float& v : g) v = float_of(engine() & 0xFF7FFFFFu);  // every exponent but that of Inf
    for (const char* chain : {"lossless", "rle"}) {
      Trial run(chain, count);
      ASSERT_EQ(run.decode(run.encode(g)), g) << chain;
    }
  }
}

}  // namespace
}  // namespace hora
