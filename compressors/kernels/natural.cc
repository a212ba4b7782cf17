// Powers of two times the block's largest magnitude, and zero: the peak, a half of it, a quarter
// and so on. A sign and b - 1 bits of the power. At random it is unbiased; to the nearest it
// contracts.
//
// Horvath et al., "Natural Compression for Distributed Deep Learning", 2019, whose levels are
// powers of two of the number itself; here of the block's peak, as QSGD has its linear levels.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

template <int kBitsOf, bool kRandomly>
struct Natural {
  static constexpr int kBits = kBitsOf, kScales = 1, kSums = 1, kSide = (1 << (kBits - 1)) - 1;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = !kRandomly};
  using Word = uint32_t;
  using Code = uint8_t;
  struct Sum {
    uint32_t word[1] = {};  // the peak, compared as an integer
  };
  struct Scale {
    float peak, inverse;
  };

  HORA_HD static void add(Sum& s, float p) {
    const uint32_t m = magnitude_bits(p);
    s.word[0] = m > s.word[0] ? m : s.word[0];
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] > b.word[0] ? a.word[0] : b.word[0]}};
  }
  HORA_HD static Scale fit(Sum s, uint32_t, float) {
    if (s.word[0] >= 0x7F800000u) return {float_of(kPoison), 0.0f};
    const float inverse = 1 / float_of(s.word[0]);
    return is_finite(inverse) ? Scale{float_of(s.word[0]), inverse} : Scale{0.0f, 0.0f};
  }

  /// The lowest exponent: 2^-(kSide - 1), but a normal number.
  static constexpr int32_t kDeep = kSide - 1 < 120 ? kSide - 1 : 120;

  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float share = float_of(magnitude_bits(p)) * s.inverse;  // 0 to 1, or a bit more
    const uint32_t bits = bits_of(share);
    const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127;
    // Where between its two powers it lies: the mantissa above the lowest power, below it the
    // share.
    const float mantissa = float_of((bits & 0x7FFFFFu) | 0x3F800000u) - 1.0f;
    const uint32_t low = static_cast<uint32_t>((exponent + kDeep) >> 31);  // ones: below all powers
    const float above = float_of((bits_of(share * static_cast<float>(1ull << (kDeep / 2)) *
                                          static_cast<float>(1ull << (kDeep - kDeep / 2))) &
                                  low) |
                                 (bits_of(mantissa) & ~low));
    const float threshold = kRandom ? unit_interval(random_bits(key, index)) : 0.5f;
    const auto up = static_cast<int32_t>(above > threshold);
    const auto floor = static_cast<int32_t>((static_cast<uint32_t>(kDeep + 1 + exponent)) & ~low);
    const int32_t level =
        floor + up > kDeep + 1 ? kDeep + 1 : floor + up;  // 0, or 1 + power + kDeep
    const uint32_t sign = bits_of(p) >> 31;
    return static_cast<uint32_t>(level) | (sign << (kBits - 1));
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    const auto level = static_cast<int32_t>(code & static_cast<uint32_t>(kSide));
    const uint32_t power = static_cast<uint32_t>(level - 1 - kDeep + 127) << 23;
    const uint32_t sent = static_cast<uint32_t>(-level >> 31);  // ones, but for level 0
    const uint32_t sign = code >> (kBits - 1) << 31;
    return float_of((power & sent) | sign) * s.peak;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.peak) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.peak; }
  HORA_HD static Scale load(const float* from) { return {*from, 0.0f}; }
};

using Natural2R = Natural<2, true>;
using Natural2 = Natural<2, false>;
using Natural3R = Natural<3, true>;
using Natural3 = Natural<3, false>;
using Natural4R = Natural<4, true>;
using Natural4 = Natural<4, false>;
using Natural5R = Natural<5, true>;
using Natural5 = Natural<5, false>;
using Natural6R = Natural<6, true>;
using Natural6 = Natural<6, false>;
using Natural7R = Natural<7, true>;
using Natural7 = Natural<7, false>;
using Natural8R = Natural<8, true>;
using Natural8 = Natural<8, false>;
HORA_QUANTIZER(Natural2R, "natural");
HORA_QUANTIZER(Natural2, "natural");
HORA_QUANTIZER(Natural3R, "natural");
HORA_QUANTIZER(Natural3, "natural");
HORA_QUANTIZER(Natural4R, "natural");
HORA_QUANTIZER(Natural4, "natural");
HORA_QUANTIZER(Natural5R, "natural");
HORA_QUANTIZER(Natural5, "natural");
HORA_QUANTIZER(Natural6R, "natural");
HORA_QUANTIZER(Natural6, "natural");
HORA_QUANTIZER(Natural7R, "natural");
HORA_QUANTIZER(Natural7, "natural");
HORA_QUANTIZER(Natural8R, "natural");
HORA_QUANTIZER(Natural8, "natural");

}  // namespace
}  // namespace hora::HORA_ISA
