// Goal: payload bytes never change by accident: ranks of two builds, and saved states, meet.
// Method: hashes of the payloads and residuals of two steps over exact inputs.

#include <cstring>

#include <fmt/format.h>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

uint64_t hash(const void* data, size_t bytes, uint64_t start) {
  for (size_t i = 0; i < bytes; ++i) {
    start = (start ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001B3u;
  }
  return start;
}

/// Dyadic values, the same on every machine.
std::vector<float> exact(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t r = random_bits({seed, 3}, i);
    values[i] = static_cast<float>(static_cast<int32_t>(r >> 12) - (1 << 19)) /
                static_cast<float>(1 << (r % 16));
  }
  return values;
}

std::string fingerprint(const std::string& chain) {
  Trial run(chain, 1237);
  uint64_t sum = 0xCBF29CE484222325u;
  for (uint32_t step = 0; step < 2; ++step) {
    const auto payload = run.encode(exact(1237, step + 1), step);
    sum = hash(payload.data(), payload.size(), sum);
  }
  const auto residual = run.residual();
  return fmt::format("{:016x}", hash(residual.data(), residual.size() * 4, sum));
}

TEST(Golden, PayloadsAndResidualsAreTheCommittedOnes) {
  EXPECT_EQ(fingerprint("onebit"), "3593ca273ddbe4c4");
  EXPECT_EQ(fingerprint("drop"), "672142f61eb47d37");
  EXPECT_EQ(fingerprint("fp16"), "e104dfc39e9a886a");
  EXPECT_EQ(fingerprint("bf16"), "a011fab870165660");
  EXPECT_EQ(fingerprint("ef+bf16"), "4851fd88b04c1d26");
  EXPECT_EQ(fingerprint("quant:bits=4,round=stochastic"), "0c10adb1ad6217fc");
  EXPECT_EQ(fingerprint("ef+quant:bits=8,round=nearest"), "a58b581387232239");
}

TEST(Golden, OneBitPayloadIsTwoMeansAndStrips) {
  Trial run("onebit", 4);
  const std::vector<float> g = {1, -2, 3, -6};
  const auto payload = run.encode(g);
  ASSERT_EQ(payload.size(), 8u + 32u);
  float means[2];
  std::memcpy(means, payload.data(), 8);
  EXPECT_EQ(means[0], 2);
  EXPECT_EQ(means[1], -4);
  const unsigned codes[] = {1, 0, 1, 0};
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(static_cast<unsigned>(payload[8 + i]), i < 4 ? codes[i] : 0u) << i;
  }
  EXPECT_EQ(run.residual(), (std::vector<float>{-1, 2, 1, -2}));
}

TEST(Golden, TopKPayloadIsCountsIndicesAndValues) {
  Trial run("ef+topk:ratio=50%", 4);
  const std::vector<float> g = {1, -2, 2, -6};
  const auto payload = run.encode(g);
  ASSERT_EQ(payload.size(), 4u + 4u + 4u + 8u);
  uint32_t head[2];
  uint16_t index[2];
  float values[2];
  std::memcpy(head, payload.data(), 8);
  std::memcpy(index, payload.data() + 8, 4);
  std::memcpy(values, payload.data() + 12, 8);
  EXPECT_EQ(head[0], 2u);
  EXPECT_EQ(head[1], 2u);
  EXPECT_EQ(index[0], 1u);  // a tie of magnitude 2 goes to the lower index
  EXPECT_EQ(index[1], 3u);
  EXPECT_EQ(values[0], -2);
  EXPECT_EQ(values[1], -6);
  EXPECT_EQ(run.residual(), (std::vector<float>{1, 0, 2, 0}));
}

}  // namespace
}  // namespace hora
