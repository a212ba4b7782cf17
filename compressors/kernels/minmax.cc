// Uniform levels from the block's smallest value to its largest: 2^b levels, none of them a sign.
//
// As in CGX, Markov et al., Middleware 2022. Random rounding is unbiased; nearest is biased, and an
// element that is small beside the range of its block may come out larger than it was, so it does
// not contract.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

template <bool kRandomly>
struct MinMax {
  static constexpr const char* kFamily = "minmax";
  static constexpr int kFewest = 2, kMost = 8, kScales = 2, kSums = 2;
  static constexpr bool kRandom = kRandomly, kRefines = false;
  static constexpr Promises kPromises = {
      .linear = false, .unbiased = kRandomly, .contractive = false};
  using Word = uint32_t;
  using Code = uint8_t;
  struct Sum {
    // Both as integers that grow with the value; a NaN or an Inf is beyond every number. The lowest
    // is kept inverted, so that both begin at 0 and grow.
    uint32_t word[2] = {};
  };
  struct Scale {
    float low, step, inverse;
    int32_t top;
  };

  /// Integers in the order of the floats.
  HORA_HD static uint32_t ordered(float p) {
    const uint32_t bits = bits_of(p);
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
  }
  HORA_HD static float from_ordered(uint32_t word) {
    return float_of(word ^
                    (static_cast<uint32_t>(static_cast<int32_t>(~word) >> 31) | 0x80000000u));
  }

  HORA_HD static void add(Sum& s, float p) {
    const uint32_t up = ordered(p), down = ~up;
    s.word[0] = up > s.word[0] ? up : s.word[0];
    s.word[1] = down > s.word[1] ? down : s.word[1];
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] > b.word[0] ? a.word[0] : b.word[0],
             a.word[1] > b.word[1] ? a.word[1] : b.word[1]}};
  }
  HORA_HD static int32_t top(int bits) { return (1 << bits) - 1; }

  HORA_HD static Scale fit(Sum s, Block block) {
    const float high = from_ordered(s.word[0]), low = from_ordered(~s.word[1]);
    // A range that is no number is the end of the arithmetic below, as an Inf is.
    if (!is_finite(high - low)) return {float_of(kPoison), float_of(kPoison), 0.0f, 0};
    const int32_t last = top(block.bits);
    const float step = (high - low) / static_cast<float>(last);
    const float inverse = 1 / step;
    return is_finite(inverse) ? Scale{low, step, inverse, last} : Scale{low, 0.0f, 0.0f, last};
  }
  HORA_HD static uint32_t code(float p, Scale s, Key key, uint32_t index) {
    const float dither = kRandom ? unit_interval(random_bits(key, index)) : 0.5f;
    const auto level = static_cast<int32_t>((p - s.low) * s.inverse + dither);
    return static_cast<uint32_t>(least(level, s.top));
  }
  HORA_HD static float value(uint32_t code, Scale s) {
    return s.low + static_cast<float>(static_cast<int32_t>(code)) * s.step;
  }

  HORA_HD static bool poisoned(Scale s) { return bits_of(s.low) == kPoison; }
  HORA_HD static void store(Scale s, float* to) { to[0] = s.low, to[1] = s.step; }
  HORA_HD static Scale load(const float* from, int bits) {
    return {from[0], from[1], 0.0f, top(bits)};
  }
};

HORA_QUANTIZERS(MinMax<true>, MinMax<false>);

}  // namespace
}  // namespace hora::HORA_ISA
