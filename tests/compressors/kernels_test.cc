// Goal: every instruction set and CUDA's warp write the same bytes and leave the same residual.
// Method: run all registered quantizers on all that this machine has, against the warp's steps; the
// sixteen-bit ones against the compiler on every half.

#include <cmath>
#include <cstring>

#include "compressors/registry.h"
#include "compressors/rotate.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

using Isa = BlockKernels::Isa;

struct Outcome {
  std::vector<uint8_t> codes;
  std::vector<float> scales, residual, decoded;
};

Outcome run(const BlockKernels& kernels, const std::vector<float>& g, const std::vector<float>& e,
            uint32_t bucket, Mode mode) {
  const uint64_t count = g.size(), blocks = (count + bucket - 1) / bucket;
  Outcome o{std::vector<uint8_t>(blocks * code_bytes(kernels.bits, bucket) + 64),
            std::vector<float>(blocks * 2 + 1), e, std::vector<float>(count, 1.0f)};
  kernels.encode({g.data(),
                  o.residual.data(),
                  o.scales.data(),
                  o.codes.data(),
                  uint64_t{1} << 33,
                  count,
                  bucket,
                  0.75f,
                  0.5f,
                  {3, 4},
                  mode,
                  1.5f},
                 nullptr);
  kernels.decode({o.scales.data(), o.codes.data(), o.decoded.data(), count, bucket, 0.5f, false},
                 nullptr);
  return o;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Kernels, EveryInstructionSetGivesTheSameBits) {
  for (size_t k = 0; k < kernel_count(); ++k) {
    const BlockKernels& base = *kernel_at(k);
    for (const uint32_t bucket : {64u, 512u, 992u, 2048u}) {
      for (const uint64_t count : {1u, 33u, 500u, 5001u}) {
        for (const Mode mode : {Mode::kPlain, Mode::kFeedback}) {
          auto g = gradient(count, static_cast<uint32_t>(k)), e = gradient(count, 77);
          if (count > 500)
            g[17] = std::nanf(""), g[4000] = 3e38f, e[4000] = 3e38f, g[1100] = 1e-42f;
          const Outcome expected = run(base, g, e, bucket, mode);
          for (const Isa isa : {Isa::warp, Isa::avx2, Isa::avx512}) {
            const BlockKernels* other = find_kernels(base.family, base.bits, base.random, isa);
            ASSERT_NE(other, nullptr) << base.family;
            if (isa == Isa::avx2 && !__builtin_cpu_supports("avx2")) continue;
            if (isa == Isa::avx512 && !__builtin_cpu_supports("avx512bw")) continue;
            const Outcome got = run(*other, g, e, bucket, mode);
            ASSERT_EQ(expected.codes, got.codes) << base.family << " " << bucket << " " << count;
            ASSERT_TRUE(same_bits(expected.scales, got.scales)) << base.family;
            ASSERT_TRUE(same_bits(expected.residual, got.residual)) << base.family;
            ASSERT_TRUE(same_bits(expected.decoded, got.decoded)) << base.family;
          }
        }
      }
    }
  }
}

TEST(Kernels, HalfAgreesWithTheCompilerOnEveryHalf) {
  const BlockKernels* k = find_kernels("fp16", 16, false, Isa::base);
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<uint16_t>(h);
    _Float16 reference;
    std::memcpy(&reference, &half, 2);
    uint16_t codes[32] = {half};
    float out[1];
    k->decode({nullptr, reinterpret_cast<uint8_t*>(codes), out, 1, 512, 1.0f, true}, nullptr);
    if (std::isnan(static_cast<float>(reference))) {
      ASSERT_TRUE(std::isnan(out[0]));
      continue;
    }
    ASSERT_EQ(bits_of(out[0]), bits_of(static_cast<float>(reference))) << h;
    for (const float nudge : {1.0f, 1.0f + 0x1p-12f, 1.0f + 0x1p-11f, 1.0f - 0x1p-12f}) {
      const float x = out[0] * nudge;
      uint16_t got[32];
      k->encode({&x,
                 nullptr,
                 nullptr,
                 reinterpret_cast<uint8_t*>(got),
                 0,
                 1,
                 512,
                 1.0f,
                 1.0f,
                 {},
                 Mode::kPlain},
                nullptr);
      const auto want = static_cast<_Float16>(x);
      uint16_t bits;
      std::memcpy(&bits, &want, 2);
      ASSERT_EQ(got[0], bits) << x;
    }
  }
}

TEST(Kernels, RotationIsTheTransformByDefinitionAndTheSameEverywhere) {
  for (const uint32_t width : {32u, 128u, 256u, 1024u, 8192u, 32768u}) {
    // Small integers: their sums are exact in any order.
    std::vector<float> x(width), expected(width);
    for (uint32_t i = 0; i < width; ++i)
      x[i] = static_cast<float>(random_bits({7, 7}, i) % 9) - 4.0f;
    std::vector<float> signs(width);
    for (uint32_t i = 0; i < width; ++i)
      signs[i] = (random_bits({3, 4}, 100 + i) >> 31) != 0 ? -1.0f : 1.0f;
    const float unit = 1.0f / std::sqrt(static_cast<float>(width));
    for (uint32_t i = 0; i < width; i += width < 1024 ? 1 : width / 61) {
      // From 256 on the rows and columns of each tile have changed places.
      const uint32_t row = width < 256 ? i : (i & ~0xFFu) | (i & 0xFu) << 4 | (i >> 4 & 0xFu);
      float sum = 0;
      for (uint32_t j = 0; j < width; ++j)
        sum += (__builtin_popcount(row & j) % 2 != 0 ? -1.0f : 1.0f) * signs[j] * x[j];
      expected[i] = sum * unit;
    }
    std::vector<float> base;
    for (const char* isa : {"base", "warp", "avx2", "avx512"}) {
      if (!choose_kernel_isa(isa)) continue;
      std::vector<float> got = x;
      host_rotation().forward(got.data(), width, width, {3, 4}, 100);
      for (uint32_t i = 0; i < width; i += width < 1024 ? 1 : width / 61)
        ASSERT_EQ(got[i], expected[i]) << isa << " " << width << " " << i;
      if (base.empty()) base = got;
      ASSERT_TRUE(same_bits(base, got)) << isa << " " << width;
      host_rotation().back(got.data(), width, width, {3, 4}, 100);
      for (uint32_t i = 0; i < width; ++i) ASSERT_NEAR(got[i], x[i], 1e-4f) << isa << " " << i;
    }
    ASSERT_TRUE(choose_kernel_isa("auto"));
  }
}

TEST(Kernels, TheInstructionSetCanBeForced) {
  ASSERT_TRUE(choose_kernel_isa("base"));
  EXPECT_EQ(chosen_kernel_isa(), "base");
  EXPECT_EQ(find_host_kernels("twomean", 1, false)->isa, Isa::base);
  EXPECT_FALSE(choose_kernel_isa("mmx"));
  EXPECT_EQ(chosen_kernel_isa(), "base");
  ASSERT_TRUE(choose_kernel_isa("auto"));
}

}  // namespace
}  // namespace hora
