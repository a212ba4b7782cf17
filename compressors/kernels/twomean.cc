// One bit for each element and two means for each block: the sign, and the mean of either side.
//
// Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014. Biased; contracts. With
// l1mean both sides share the mean magnitude (EF-signSGD, Karimireddy et al. 2019); with midmean
// the sides part at the block's mean instead of at zero, as CNTK's quantizer can be told.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

struct TwoMean {
  static constexpr const char* kFamily = "twomean";
  static constexpr int kFewest = 1, kMost = 1, kScales = 2, kSums = 3;
  static constexpr bool kRandom = false, kRefines = false;
  static constexpr Promises kPromises = {.linear = false, .unbiased = false, .contractive = true};
  using Word = float;
  using Code = uint8_t;
  struct Sum {
    float word[3] =
        {};  // sum of the upper side, sum of the lower, count of the upper (exact below 2^24)
  };
  struct Scale {
    float above, below;
  };

  /// All ones below zero. The sign bit decides, so -0 is on the lower side; it adds nothing there.
  HORA_HD static uint32_t down(float p) {
    return static_cast<uint32_t>(static_cast<int32_t>(bits_of(p)) >> 31);
  }

  HORA_HD static void add(Sum& s, float p) {
    const uint32_t below = down(p);
    s.word[0] += float_of(bits_of(p) & ~below);
    s.word[1] += float_of(bits_of(p) & below);
    s.word[2] += float_of(0x3F800000u & ~below);
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] + b.word[0], a.word[1] + b.word[1], a.word[2] + b.word[2]}};
  }
  HORA_HD static Scale fit(Sum s, Block block) {
    const float up = s.word[2], rest = static_cast<float>(block.count) - up;
    if (!is_finite(s.word[0]) || !is_finite(s.word[1]))
      return {float_of(kPoison), float_of(kPoison)};
    return {up > 0 ? s.word[0] / up : 0.0f, rest > 0 ? s.word[1] / rest : 0.0f};
  }
  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) { return 1 + down(p); }
  HORA_HD static float value(uint32_t code, Scale s) {
    const uint32_t below = code - 1;
    return float_of((bits_of(s.above) & ~below) | (bits_of(s.below) & below));
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.above) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { to[0] = s.above, to[1] = s.below; }
  HORA_HD static Scale load(const float* from, int) { return {from[0], from[1]}; }
};

/// One mean for both sides, so half the work: the sum of magnitudes is all it needs.
struct L1Mean : TwoMean {
  static constexpr const char* kFamily = "l1mean";
  static constexpr int kSums = 1;
  struct Sum {
    float word[1] = {};
  };
  HORA_HD static void add(Sum& s, float p) { s.word[0] += float_of(magnitude_bits(p)); }
  HORA_HD static Sum join(Sum a, Sum b) { return {{a.word[0] + b.word[0]}}; }
  HORA_HD static Scale fit(Sum s, Block block) {
    const float mean = s.word[0] / static_cast<float>(block.count);
    if (!is_finite(mean)) return {float_of(kPoison), float_of(kPoison)};
    return {mean, -mean};
  }
};

/// Sides part at the mean, and both lie at the mean distance from it.
struct MidMean : L1Mean {
  static constexpr const char* kFamily = "midmean";
  static constexpr bool kRefines = true;
  struct Scale {
    float above, below, middle;
  };

  HORA_HD static void add(Sum& s, float p) { s.word[0] += p; }
  HORA_HD static Scale fit(Sum s, Block block) {
    const float mean = s.word[0] / static_cast<float>(block.count);
    return {mean, mean, mean};
  }
  HORA_HD static void again(Sum& s, float p, Scale scale) {
    s.word[0] += float_of(magnitude_bits(p - scale.middle));
  }
  HORA_HD static Scale refit(Sum s, Block block, Scale scale) {
    const float distance = s.word[0] / static_cast<float>(block.count);
    const float above = scale.middle + distance, below = scale.middle - distance;
    if (!is_finite(above) || !is_finite(below)) return {float_of(kPoison), float_of(kPoison), 0.0f};
    return {above, below, scale.middle};
  }
  HORA_HD static uint32_t code(float p, Scale s, Key, uint32_t) { return 1 + down(p - s.middle); }
  HORA_HD static float value(uint32_t code, Scale s) {
    return TwoMean::value(code, {s.above, s.below});
  }
  HORA_HD static bool poisoned(Scale s) { return bits_of(s.above) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { to[0] = s.above, to[1] = s.below; }
  HORA_HD static Scale load(const float* from, int) { return {from[0], from[1], 0.0f}; }
};

HORA_QUANTIZERS(TwoMean, L1Mean, MidMean);

}  // namespace
}  // namespace hora::HORA_ISA
