// Uniform levels between minus and plus the block's norm, rounded at random or to the nearest. The
// sign counts as a bit: b bits have s = 2^(b-1) - 1 levels a side.
//
// QSGD, Alistarh et al. 2017: `levels` has the largest magnitude for a norm, as in its experiments,
// `l2` the Euclidean one, as in its theory. TernGrad, Wen et al. 2017, is s = 1 (b = 2). Random
// rounding is unbiased; nearest is biased and contracts.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

/// `side` levels on either side of zero, `step` apart.
template <class Norm, bool kRandomly>
struct Uniform : Norm {
  static constexpr int kFewest = 2, kMost = 8, kScales = 1;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = !kRandomly};
  using Code = uint8_t;
  struct Scale {
    float step, inverse;
    int32_t side;
  };

  HORA_HD static int32_t side(int bits) { return (1 << (bits - 1)) - 1; }
  HORA_HD static Scale poison() { return {float_of(kPoison), 0.0f, 0}; }

  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float dither = kRandom ? unit_interval(random_bits(key, index)) : 0.5f;
    const auto level = static_cast<int32_t>(p * s.inverse + static_cast<float>(s.side) + dither);
    return static_cast<uint32_t>(least(level, 2 * s.side));
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    return static_cast<float>(static_cast<int32_t>(code) - s.side) * s.step;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.step) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { *to = s.step; }
  HORA_HD static Scale load(const float* from, int bits) { return {*from, 0.0f, side(bits)}; }
};

template <bool kRandomly>
struct Levels : Uniform<Peak, kRandomly> {
  static constexpr const char* kFamily = "levels";
  using Base = Uniform<Peak, kRandomly>;
  using typename Base::Scale;

  HORA_HD static Scale fit(Peak::Sum s, Block block) {
    if (!Peak::all_finite(s)) return Base::poison();
    const int32_t side = Base::side(block.bits);
    const float peak = float_of(s.word[0]), inverse = static_cast<float>(side) / peak;
    // A peak near the smallest float sends 0.
    return {peak / static_cast<float>(side), is_finite(inverse) ? inverse : 0.0f, side};
  }
};

/// Most elements are far below the Euclidean norm, so rounding to the nearest would send nothing.
struct Euclidean : Uniform<Squares, true> {
  static constexpr const char* kFamily = "l2";

  HORA_HD static Scale fit(Sum s, Block block) {
    if (!is_finite(s.word[0])) return poison();
    const int32_t sides = side(block.bits);
    const float norm = __builtin_sqrtf(s.word[0]), inverse = static_cast<float>(sides) / norm;
    return is_finite(inverse) ? Scale{norm / static_cast<float>(sides), inverse, sides}
                              : Scale{0.0f, 0.0f, sides};
  }
};

HORA_QUANTIZERS(Levels<true>, Levels<false>, Euclidean);

}  // namespace
}  // namespace hora::HORA_ISA
