// One bit for each element, and a value that the block's mean does not decide.
//
// `unit`: plus or minus the quantizer's `scale`, by sign: signSGD, Bernstein et al., ICML 2018;
// with `threshold` before it the reconstruction of Strom, Interspeech 2015. Biased, and no
// contraction.
//
// `dither`: plus or minus lambda, by the sign of the element plus a number drawn from [-lambda,
// lambda], where lambda is the block's peak: unbiased. `lambda` takes lambda = scale |block|_2
// sqrt(ln n / n) instead, which cuts off what is larger: FO-SGD, Stollenwerk & Jacques 2024, after
// a flattening transform. That formula is our reading of its abstract.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

struct Unit {
  static constexpr int kBits = 1, kScales = 1, kSums = 1;
  static constexpr bool kRandom = false, kRefines = false;
  static constexpr Promises kPromises = {};
  using Word = uint32_t;
  using Code = uint8_t;
  struct Sum {
    uint32_t word[1] = {};  // the peak: whether all numbers are finite
  };
  struct Scale {
    float unit;
  };

  HORA_HD static void add(Sum& s, float p) {
    const uint32_t m = magnitude_bits(p);
    s.word[0] = m > s.word[0] ? m : s.word[0];
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] > b.word[0] ? a.word[0] : b.word[0]}};
  }
  HORA_HD static Scale fit(Sum s, uint32_t, float parameter) {
    return {s.word[0] >= 0x7F800000u ? float_of(kPoison) : parameter};
  }
  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) { return 1 - (bits_of(p) >> 31); }
  HORA_HD static float value(uint32_t code, Scale s) {
    return float_of(bits_of(s.unit) ^ (1 - code) << 31);
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.unit) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.unit; }
  HORA_HD static Scale load(const float* from) { return {*from}; }
};

struct Dither : Unit {
  static constexpr bool kRandom = true;
  static constexpr Promises kPromises = {.linear = false, .unbiased = true, .contractive = false};

  HORA_HD static Scale fit(Sum s, uint32_t, float) {
    return {s.word[0] >= 0x7F800000u ? float_of(kPoison) : float_of(s.word[0])};
  }
  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float tau = (unit_interval(random_bits(key, index)) - 0.5f) * (2 * s.unit);
    return static_cast<uint32_t>(p + tau >= 0);
  }
};

struct Lambda : Dither {
  static constexpr Promises kPromises = {};
  using Word = float;
  struct Sum {
    float word[1] = {};  // of squares
  };

  HORA_HD static void add(Sum& s, float p) { s.word[0] += p * p; }
  HORA_HD static Sum join(Sum a, Sum b) { return {{a.word[0] + b.word[0]}}; }
  HORA_HD static Scale fit(Sum s, uint32_t n, float parameter) {
    uint32_t log2 = 1;
    while (n >> (log2 + 1) != 0) ++log2;
    const float spread = 0.6931472f * static_cast<float>(static_cast<int32_t>(log2)) /
                         static_cast<float>(static_cast<int32_t>(n));
    const float lambda = parameter * __builtin_sqrtf(s.word[0] * spread);
    return {is_finite(lambda) ? lambda : float_of(kPoison)};
  }
};

HORA_QUANTIZER(Unit, "unit");
HORA_QUANTIZER(Dither, "dither");
HORA_QUANTIZER(Lambda, "lambda");

}  // namespace
}  // namespace hora::HORA_ISA
