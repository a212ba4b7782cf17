// Goal: payload bytes never change by accident: ranks of two builds, and saved states, meet.
// Method: hashes of the payloads and residuals of two steps over exact inputs.

#include <cstring>
#include <map>

#include <fmt/format.h>

#include "compressors/registry.h"
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

/// Every preset and every quantizer, and what else has bytes of its own.
const std::map<std::string, std::string> kCommitted = {
    {"basis", "28fb73e369c28f3a"},
    {"bf16", "a011fab870165660"},
    {"columns", "6ccd804557f44295"},
    {"dgc", "4aca53adda91dc0d"},
    {"drop", "672142f61eb47d37"},
    {"dryden", "7744d07484caa8dc"},
    {"ef+bf16", "4851fd88b04c1d26"},
    {"ef+quant:bits=1,recon=dither,round=stochastic", "5ece62f2304e79d1"},
    {"ef+quant:bits=1,recon=l1mean,round=nearest", "b268542e22e9e724"},
    {"ef+quant:bits=1,recon=lambda,round=stochastic", "748513741263a8d2"},
    {"ef+quant:bits=1,recon=midmean,round=nearest", "d4ad778f5550df7f"},
    {"ef+quant:bits=1,recon=twomean,round=nearest", "3593ca273ddbe4c4"},
    {"ef+quant:bits=1,recon=unit,round=nearest", "adda50568e3c450a"},
    {"ef+quant:bits=2,recon=l2,round=stochastic", "1a91dc1af38df7ad"},
    {"ef+quant:bits=2,recon=levels,round=nearest", "2430026387d18275"},
    {"ef+quant:bits=2,recon=levels,round=stochastic", "c49814f5d4649148"},
    {"ef+quant:bits=2,recon=minmax,round=nearest", "3fc3569b69f5fc70"},
    {"ef+quant:bits=2,recon=minmax,round=stochastic", "80f185572af226ed"},
    {"ef+quant:bits=2,recon=natural,round=nearest", "3a7c4f49d5bb8eeb"},
    {"ef+quant:bits=2,recon=natural,round=stochastic", "d1e68c24660e128a"},
    {"ef+quant:bits=3,recon=l2,round=stochastic", "0ed5f8809cb13a10"},
    {"ef+quant:bits=3,recon=levels,round=nearest", "6d02dd5746c477a3"},
    {"ef+quant:bits=3,recon=levels,round=stochastic", "67a1c4269c6a1cb2"},
    {"ef+quant:bits=3,recon=minmax,round=nearest", "6447fca8ef965439"},
    {"ef+quant:bits=3,recon=minmax,round=stochastic", "f2b0ab7c5c721a0b"},
    {"ef+quant:bits=3,recon=natural,round=nearest", "b76d512be5cc0025"},
    {"ef+quant:bits=3,recon=natural,round=stochastic", "bc80d31f5e8082ca"},
    {"ef+quant:bits=4,recon=l2,round=stochastic", "df6cd01787032a7d"},
    {"ef+quant:bits=4,recon=levels,round=nearest", "7deb1cb837148462"},
    {"ef+quant:bits=4,recon=levels,round=stochastic", "6abe064f4f51d40b"},
    {"ef+quant:bits=4,recon=minmax,round=nearest", "2283579cc2756c42"},
    {"ef+quant:bits=4,recon=minmax,round=stochastic", "9fab5e9a25e3cd95"},
    {"ef+quant:bits=4,recon=natural,round=nearest", "dec96e56ff672ac5"},
    {"ef+quant:bits=4,recon=natural,round=stochastic", "2d681029b8f81277"},
    {"ef+quant:bits=5,recon=l2,round=stochastic", "446c51c262e783db"},
    {"ef+quant:bits=5,recon=levels,round=nearest", "7b66e32c9e10b328"},
    {"ef+quant:bits=5,recon=levels,round=stochastic", "c2b4a26866ed9674"},
    {"ef+quant:bits=5,recon=minmax,round=nearest", "b2b6bce2bc385fdf"},
    {"ef+quant:bits=5,recon=minmax,round=stochastic", "a2e6ef074bc17c59"},
    {"ef+quant:bits=5,recon=natural,round=nearest", "9ae41b613ea5a350"},
    {"ef+quant:bits=5,recon=natural,round=stochastic", "b3e04b796d4b0d81"},
    {"ef+quant:bits=6,recon=l2,round=stochastic", "a204d721959f4d02"},
    {"ef+quant:bits=6,recon=levels,round=nearest", "fb6b2b73609d24b8"},
    {"ef+quant:bits=6,recon=levels,round=stochastic", "42b9b3a6c1be8eed"},
    {"ef+quant:bits=6,recon=minmax,round=nearest", "4df4752a5176765d"},
    {"ef+quant:bits=6,recon=minmax,round=stochastic", "a108e5ac4c4b75ac"},
    {"ef+quant:bits=6,recon=natural,round=nearest", "3618486f2d64958d"},
    {"ef+quant:bits=6,recon=natural,round=stochastic", "333b585f63837232"},
    {"ef+quant:bits=7,recon=l2,round=stochastic", "2fba129ea3b40a11"},
    {"ef+quant:bits=7,recon=levels,round=nearest", "2daa21586c0d1ff8"},
    {"ef+quant:bits=7,recon=levels,round=stochastic", "904155c611ac4082"},
    {"ef+quant:bits=7,recon=minmax,round=nearest", "84a5b3f60bc032f0"},
    {"ef+quant:bits=7,recon=minmax,round=stochastic", "92cb4431cd5c01b4"},
    {"ef+quant:bits=7,recon=natural,round=nearest", "57010862ad45d04d"},
    {"ef+quant:bits=7,recon=natural,round=stochastic", "5ca58a697bffdd32"},
    {"ef+quant:bits=8,recon=e4m3,round=nearest", "cc41afa3d05dcfb8"},
    {"ef+quant:bits=8,recon=e4m3,round=stochastic", "d47f168e851f7b6c"},
    {"ef+quant:bits=8,recon=e5m2,round=nearest", "dc7490a898a04a94"},
    {"ef+quant:bits=8,recon=e5m2,round=stochastic", "bb720faa94d64ea6"},
    {"ef+quant:bits=8,recon=l2,round=stochastic", "3d9091150df8bcdc"},
    {"ef+quant:bits=8,recon=levels,round=nearest", "a58b581387232239"},
    {"ef+quant:bits=8,recon=levels,round=stochastic", "33164c01287aca11"},
    {"ef+quant:bits=8,recon=minmax,round=nearest", "bcbdd6be91ea1948"},
    {"ef+quant:bits=8,recon=minmax,round=stochastic", "5ae91c28ec153f4c"},
    {"ef+quant:bits=8,recon=natural,round=nearest", "b5e88b6a695f69d6"},
    {"ef+quant:bits=8,recon=natural,round=stochastic", "c83dced5a4729ee1"},
    {"ef+randk", "c05ab5ae66608a46"},
    {"efsign", "729515614736d079"},
    {"fosgd", "ef699127066682d1"},
    {"fp16", "e104dfc39e9a886a"},
    {"fp8", "cc41afa3d05dcfb8"},
    {"gradiveq", "28fb73e369c28f3a"},
    {"hadamard:block=256+onebit", "888adfc9fb8a9bb1"},
    {"lossless", "e5d02a574eabe654"},
    {"lowrank", "d0b518a19281e6cb"},
    {"mask", "00bcc54e4c1fb4ee"},
    {"mc+topk:ratio=2%", "bfed0491755306e3"},
    {"natural", "0844c08edfd26dc7"},
    {"onebit", "3593ca273ddbe4c4"},
    {"powersgd", "8da76ec73d2d53d9"},
    {"proportion", "ea10ea85376df7ad"},
    {"qsgd", "0c10adb1ad6217fc"},
    {"quant", "0c10adb1ad6217fc"},
    {"randk", "1092085c08556d29"},
    {"rle", "ac10ec083324eaa2"},
    {"signsgd", "8b471a554061ef05"},
    {"signum", "8b471a554061ef05"},
    {"strom", "3185121dd91ee5b1"},
    {"terngrad", "c414b7a83f1d4945"},
    {"terngrad:scale=1", "9d82d80d6fd277a0"},
    {"threshold", "67d73020ff5e4713"},
    {"topk", "672142f61eb47d37"},
    {"topk:ratio=3%+bitmap", "2835571b85bd8d34"},
    {"topk:ratio=3%+elias", "75506b3eedecc8aa"},
    {"topk:ratio=3%+golomb", "d47df11bde2671c3"},
    {"topk:ratio=3%+u16", "4a7062d63bb25ce7"},
    {"topk:ratio=3%+u32", "cebebcaeaf97f67b"},
    {"truncate", "0f8b34ecd752b2fa"},
};

std::vector<std::string> chains_with_bytes() {
  std::vector<std::string> chains;
  for (const Preset& preset : presets()) chains.push_back(preset.name);
  for (const Stage& stage : stages()) {
    if (stage.code) chains.push_back(std::string("topk:ratio=3%+") + stage.name);
    if (stage.make && stage.order != Order::kTransform) chains.push_back(stage.name);
  }
  for (size_t i = 0; i < kernel_count(); ++i) {
    const BlockKernels& k = *kernel_at(i);
    if (k.bits > 8) continue;
    chains.push_back(fmt::format("ef+quant:bits={},recon={},round={}", k.bits, k.family,
                                 k.random ? "stochastic" : "nearest"));
  }
  for (const char* more :
       {"ef+bf16", "ef+randk", "hadamard:block=256+onebit", "mc+topk:ratio=2%", "terngrad:scale=1"})
    chains.push_back(more);
  return chains;
}

TEST(Golden, PayloadsAndResidualsAreTheCommittedOnes) {
  for (const std::string& chain : chains_with_bytes()) {
    const auto committed = kCommitted.find(chain);
    const std::string found = fingerprint(chain);
    EXPECT_EQ(committed == kCommitted.end() ? "none" : committed->second, found)
        << "    {\"" << chain << "\", \"" << found << "\"},";
  }
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
