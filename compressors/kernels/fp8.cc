// Eight-bit floats, scaled so that the block's largest magnitude is the largest number: e4m3 keeps
// more digits, e5m2 more range. The formats are those of Micikevicius et al., "FP8 Formats for Deep
// Learning", 2022; the scale for each block is ours. To the nearest (even) it contracts; at random
// it is unbiased.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

/// `kMantissa` bits after the point, exponent bias `kBias`, `kLargest` the bits of the largest
/// number.
template <int kMantissa, int kBias, uint32_t kLargest, bool kRandomly>
struct Float8 : Peak {
  static constexpr int kFewest = 8, kMost = 8, kScales = 1;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = !kRandomly};
  using Code = uint8_t;
  struct Scale {
    float unit, inverse;
  };
  static constexpr uint32_t kDrop = 23 - kMantissa;
  static constexpr uint32_t kRebias = static_cast<uint32_t>(127 - kBias) << 23;

  HORA_HD static uint32_t mask(bool is) { return 0u - static_cast<uint32_t>(is); }
  HORA_HD static float largest() { return float_of((kLargest << kDrop) + kRebias); }

  HORA_HD static Scale fit(Sum s, Block) {
    if (!all_finite(s)) return {float_of(kPoison), 0.0f};
    const float inverse = largest() / float_of(s.word[0]);
    return is_finite(inverse) ? Scale{float_of(s.word[0]) / largest(), inverse} : Scale{0.0f, 0.0f};
  }
  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const uint32_t m = bits_of(float_of(magnitude_bits(p)) * s.inverse);
    const uint32_t random = kRandom ? random_bits(key, index) : 0u;
    // A normal number is rounded in its bits. A subnormal one is a multiple of the smallest: it is
    // rounded by adding a number that large that its last digit is this multiple.
    constexpr uint32_t kHalf = (1u << (kDrop - 1)) - 1;
    const uint32_t half = kRandom ? random >> (32 - kDrop) : kHalf + (m >> kDrop & 1u);
    const uint32_t normal = ((m - kRebias) + half) >> kDrop;
    constexpr float kInverseSmallest = static_cast<float>(1u << (kBias - 1 + kMantissa));
    constexpr uint32_t kNormal = kRebias + (1u << 23);
    const float multiple = float_of(m < kNormal ? m : kNormal) * kInverseSmallest;
    const float dither = kRandom ? unit_interval(random) : 0.5f;
    const auto floor = static_cast<int32_t>(multiple);
    const float rest = multiple - static_cast<float>(floor);
    const auto odd = static_cast<uint32_t>(floor) & 1u;
    // Selected by masks: branches on floats would not become vectors.
    const uint32_t over = mask(bits_of(dither) < bits_of(rest));  // neither is negative
    const uint32_t tie = kRandom ? 0u : mask(bits_of(rest) == bits_of(dither)) & odd;
    const uint32_t small = static_cast<uint32_t>(floor) + ((over & 1u) | tie);
    const uint32_t subnormal = mask(m < kNormal);
    const uint32_t rounded = (small & subnormal) | (normal & ~subnormal);
    const uint32_t beyond = mask(rounded > kLargest);
    return (kLargest & beyond) | (rounded & ~beyond) | bits_of(p) >> 31 << 7;
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    const uint32_t m = code & 0x7Fu;
    constexpr float kSmallest = 1.0f / static_cast<float>(1u << (kBias - 1 + kMantissa));
    const float small = static_cast<float>(static_cast<int32_t>(m)) * kSmallest;
    const float normal = float_of((m << kDrop) + kRebias);
    const uint32_t subnormal = mask(m < (1u << kMantissa));
    const uint32_t magnitude = (bits_of(small) & subnormal) | (bits_of(normal) & ~subnormal);
    return float_of(magnitude | code >> 7 << 31) * s.unit;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.unit) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.unit; }
  HORA_HD static Scale load(const float* from, int) { return {*from, 0.0f}; }
};

template <bool kRandomly>
struct E4M3 : Float8<3, 7, 0x7Eu, kRandomly> {
  static constexpr const char* kFamily = "e4m3";
};

template <bool kRandomly>
struct E5M2 : Float8<2, 15, 0x7Bu, kRandomly> {
  static constexpr const char* kFamily = "e5m2";
};

HORA_QUANTIZERS(E4M3<true>, E4M3<false>, E5M2<true>, E5M2<false>);

}  // namespace
}  // namespace hora::HORA_ISA
