// Uniform levels between minus and plus the block's norm, rounded at random or to the nearest. The
// sign counts as a bit: b bits have s = 2^(b-1) - 1 levels a side.
//
// QSGD, Alistarh et al. 2017: `levels` has the largest magnitude for a norm, as in its experiments,
// `l2` the Euclidean one, as in its theory. TernGrad, Wen et al. 2017, is s = 1 (b = 2). Random
// rounding is unbiased; nearest is biased and contracts.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

template <int kBitsOf, bool kRandomly>
struct Levels {
  static constexpr int kBits = kBitsOf, kScales = 1, kSums = 1, kSide = (1 << (kBits - 1)) - 1;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = !kRandomly};
  using Word = uint32_t;
  using Code = uint8_t;
  struct Sum {
    uint32_t word[1] =
        {};  // the peak: magnitudes compare as integers, and a NaN or an Inf beats every number
  };
  struct Scale {
    float step, inverse;
  };

  HORA_HD static void add(Sum& s, float p) {
    const uint32_t m = magnitude_bits(p);
    s.word[0] = m > s.word[0] ? m : s.word[0];
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] > b.word[0] ? a.word[0] : b.word[0]}};
  }
  HORA_HD static Scale fit(Sum s, uint32_t, float) {
    const uint32_t peak = s.word[0];
    if (peak >= 0x7F800000u) return {float_of(kPoison), 0.0f};
    const float step = float_of(peak) / kSide;
    const float inverse = kSide / float_of(peak);
    return {step, is_finite(inverse) ? inverse : 0.0f};  // a peak near the smallest float sends 0
  }
  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float dither = kRandom ? unit_interval(random_bits(key, index)) : 0.5f;
    const auto level = static_cast<int32_t>(p * s.inverse + kSide + dither);
    return static_cast<uint32_t>(level > 2 * kSide ? 2 * kSide : level);
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    return static_cast<float>(static_cast<int32_t>(code) - kSide) * s.step;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.step) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.step; }
  HORA_HD static Scale load(const float* from) { return {*from, 0.0f}; }
};

/// Most elements are far below the Euclidean norm, so rounding to the nearest would send nothing.
template <int kBitsOf>
struct Euclidean : Levels<kBitsOf, true> {
  using Base = Levels<kBitsOf, true>;
  using Word = float;
  using typename Base::Scale;
  struct Sum {
    float word[1] = {};
  };

  HORA_HD static void add(Sum& s, float p) { s.word[0] += p * p; }
  HORA_HD static Sum join(Sum a, Sum b) { return {{a.word[0] + b.word[0]}}; }
  HORA_HD static Scale fit(Sum s, uint32_t, float) {
    if (!is_finite(s.word[0])) return {float_of(kPoison), 0.0f};
    const float norm = __builtin_sqrtf(s.word[0]);
    const float inverse = Base::kSide / norm;
    return is_finite(inverse) ? Scale{norm / Base::kSide, inverse} : Scale{0.0f, 0.0f};
  }
};

using Levels2R = Levels<2, true>;
using Levels2 = Levels<2, false>;
using Euclidean2 = Euclidean<2>;
using Levels3R = Levels<3, true>;
using Levels3 = Levels<3, false>;
using Euclidean3 = Euclidean<3>;
using Levels4R = Levels<4, true>;
using Levels4 = Levels<4, false>;
using Euclidean4 = Euclidean<4>;
using Levels5R = Levels<5, true>;
using Levels5 = Levels<5, false>;
using Euclidean5 = Euclidean<5>;
using Levels6R = Levels<6, true>;
using Levels6 = Levels<6, false>;
using Euclidean6 = Euclidean<6>;
using Levels7R = Levels<7, true>;
using Levels7 = Levels<7, false>;
using Euclidean7 = Euclidean<7>;
using Levels8R = Levels<8, true>;
using Levels8 = Levels<8, false>;
using Euclidean8 = Euclidean<8>;
HORA_QUANTIZER(Levels2R, "levels");
HORA_QUANTIZER(Levels2, "levels");
HORA_QUANTIZER(Euclidean2, "l2");
HORA_QUANTIZER(Levels3R, "levels");
HORA_QUANTIZER(Levels3, "levels");
HORA_QUANTIZER(Euclidean3, "l2");
HORA_QUANTIZER(Levels4R, "levels");
HORA_QUANTIZER(Levels4, "levels");
HORA_QUANTIZER(Euclidean4, "l2");
HORA_QUANTIZER(Levels5R, "levels");
HORA_QUANTIZER(Levels5, "levels");
HORA_QUANTIZER(Euclidean5, "l2");
HORA_QUANTIZER(Levels6R, "levels");
HORA_QUANTIZER(Levels6, "levels");
HORA_QUANTIZER(Euclidean6, "l2");
HORA_QUANTIZER(Levels7R, "levels");
HORA_QUANTIZER(Levels7, "levels");
HORA_QUANTIZER(Euclidean7, "l2");
HORA_QUANTIZER(Levels8R, "levels");
HORA_QUANTIZER(Levels8, "levels");
HORA_QUANTIZER(Euclidean8, "l2");

}  // namespace
}  // namespace hora::HORA_ISA
