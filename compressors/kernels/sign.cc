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

/// Plus or minus `unit`.
template <class Norm>
struct OneBit : Norm {
  static constexpr int kFewest = 1, kMost = 1, kScales = 1;
  static constexpr bool kRandom = false, kRefines = false;
  static constexpr Promises kPromises = {};
  using Code = uint8_t;
  struct Scale {
    float unit;
  };

  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) { return 1 - (bits_of(p) >> 31); }
  HORA_HD static float value(uint32_t code, Scale s) {
    return float_of(bits_of(s.unit) ^ (1 - code) << 31);
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.unit) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.unit; }
  HORA_HD static Scale load(const float* from, int) { return {*from}; }
};

/// The peak only tells whether all numbers are finite.
struct Unit : OneBit<Peak> {
  static constexpr const char* kFamily = "unit";
  static constexpr Promises kPromises = {.votes = true};

  HORA_HD static Scale fit(Sum s, Block block) {
    return {all_finite(s) ? block.parameter : float_of(kPoison)};
  }
};

template <class Norm>
struct Dithered : OneBit<Norm> {
  static constexpr bool kRandom = true;
  using typename OneBit<Norm>::Scale;

  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float tau = (unit_interval(random_bits(key, index)) - 0.5f) * (2 * s.unit);
    return static_cast<uint32_t>(p + tau >= 0);
  }
};

struct Dither : Dithered<Peak> {
  static constexpr const char* kFamily = "dither";
  static constexpr Promises kPromises = {.linear = false, .unbiased = true, .contractive = false};

  HORA_HD static Scale fit(Sum s, Block) { return {float_of(all_finite(s) ? s.word[0] : kPoison)}; }
};

struct Lambda : Dithered<Squares> {
  static constexpr const char* kFamily = "lambda";

  HORA_HD static Scale fit(Sum s, Block block) {
    const uint32_t n = block.count;
    uint32_t log2 = 1;
    while (n >> (log2 + 1) != 0) ++log2;
    const float spread = 0.6931472f * static_cast<float>(static_cast<int32_t>(log2)) /
                         static_cast<float>(static_cast<int32_t>(n));
    const float lambda = block.parameter * __builtin_sqrtf(s.word[0] * spread);
    return {is_finite(lambda) ? lambda : float_of(kPoison)};
  }
};

HORA_QUANTIZERS(Unit, Dither, Lambda);

}  // namespace
}  // namespace hora::HORA_ISA
