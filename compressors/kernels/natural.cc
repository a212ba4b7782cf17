// Powers of two times the block's largest magnitude, and zero: the peak, a half of it, a quarter
// and so on. A sign and b - 1 bits of the power. At random it is unbiased; to the nearest it
// contracts.
//
// Horvath et al., "Natural Compression for Distributed Deep Learning", 2019, whose levels are
// powers of two of the number itself; here of the block's peak, as QSGD has its linear levels.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

template <bool kRandomly>
struct Natural : Peak {
  static constexpr const char* kFamily = "natural";
  static constexpr int kFewest = 2, kMost = 8, kScales = 1;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = !kRandomly};
  using Code = uint8_t;
  struct Scale {
    float peak, inverse;
    int32_t side, bias;  // bias: of the lowest power's exponent, inverted
    float lift;          // one over the lowest power
  };

  /// `side` powers, of which the lowest is 2^-deep: a normal number.
  HORA_HD static Scale scale(float peak, float inverse, int bits) {
    const int32_t side = (1 << (bits - 1)) - 1, deep = least(side - 1, 120);
    return {peak, inverse, side, deep - 127, float_of(static_cast<uint32_t>(127 + deep) << 23)};
  }

  HORA_HD static Scale fit(Sum s, Block block) {
    if (!all_finite(s)) return scale(float_of(kPoison), 0.0f, block.bits);
    const float peak = float_of(s.word[0]), inverse = 1 / peak;
    return is_finite(inverse) ? scale(peak, inverse, block.bits) : scale(0.0f, 0.0f, block.bits);
  }

  /// 0, or 1 + the power that a share of the peak is rounded to, at random.
  HORA_HD static int32_t any_level(uint32_t bits, float share, Scale s, float threshold) {
    const int32_t power = static_cast<int32_t>(bits >> 23) + s.bias;  // above the lowest
    // Where between its two powers it lies: the mantissa above the lowest power, below it the
    // share.
    const float mantissa = float_of((bits & 0x7FFFFFu) | 0x3F800000u) - 1.0f;
    const uint32_t low = static_cast<uint32_t>(power >> 31);  // ones: below all powers
    const float above = float_of((bits_of(share * s.lift) & low) | (bits_of(mantissa) & ~low));
    const auto up = static_cast<int32_t>(above > threshold);
    return static_cast<int32_t>(static_cast<uint32_t>(power + 1) & ~low) + up;
  }

  /// The same to the nearest: a carry out of the mantissa is the step up to the next power, and
  /// below the lowest one there is half of it to reach.
  HORA_HD static int32_t nearest_level(uint32_t bits, Scale s) {
    const int32_t carried = static_cast<int32_t>((bits + 0x3FFFFFu) >> 23) + s.bias + 1;
    const int32_t half = (-1 - s.bias) << 23, fewest = static_cast<int32_t>(bits) > half ? 1 : 0;
    return carried > fewest ? carried : fewest;
  }

  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float share = float_of(magnitude_bits(p)) * s.inverse;  // 0 to 1, or a bit more
    const uint32_t bits = bits_of(share);
    const int32_t rounded = kRandom
                                ? any_level(bits, share, s, unit_interval(random_bits(key, index)))
                                : nearest_level(bits, s);
    const int32_t level = least(rounded, s.bias + 128);
    const int32_t sign = static_cast<int32_t>(bits_of(p)) >> 31;  // all ones, or 0
    return static_cast<uint32_t>(level | (sign & (s.side + 1)));
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    const auto level = static_cast<int32_t>(code & static_cast<uint32_t>(s.side));
    const uint32_t power = static_cast<uint32_t>(level - 1 - s.bias) << 23;
    const uint32_t sent = static_cast<uint32_t>(-level >> 31);  // ones, but for level 0
    const uint32_t sign = static_cast<uint32_t>(s.side - static_cast<int32_t>(code)) & 0x80000000u;
    return float_of((power & sent) | sign) * s.peak;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.peak) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.peak; }
  HORA_HD static Scale load(const float* from, int bits) { return scale(*from, 0.0f, bits); }
};

HORA_QUANTIZERS(Natural<true>, Natural<false>);

}  // namespace
}  // namespace hora::HORA_ISA
