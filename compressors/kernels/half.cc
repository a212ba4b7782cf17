// Sixteen bits for each element: bfloat16 and IEEE half, rounded to nearest even (or cut off)
// in integer arithmetic, so that host and device agree on subnormals, overflow and NaN too. Linear.

#include "compressors/blocks.h"

namespace hora::HORA_ISA {
namespace {

struct Bf16 {
  static constexpr const char* kFamily = "bf16";
  static constexpr int kFewest = 16, kMost = 16, kScales = 0, kSums = 0;
  static constexpr bool kRandom = false, kRefines = false;
  static constexpr Promises kPromises = {.linear = true, .unbiased = false, .contractive = true};
  using Word = float;
  typedef uint16_t __attribute__((may_alias)) Code;
  struct Sum {};
  struct Scale {};
  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) {
    const uint32_t bits = bits_of(p);
    return (is_finite(p) ? bits + 0x7FFFu + ((bits >> 16) & 1u)
                         : bits | ((bits & 0x7FFFFFu) ? 0x400000u : 0u)) >>
           16;
  }
  HORA_HD static float value(uint32_t code, Scale) { return float_of(code << 16); }
  HORA_HD static void store(Scale, float*) {}
  HORA_HD static Scale load(const float*, int) { return {}; }
  HORA_HD static bool poisoned(Scale) { return false; }
};

/// The upper half of the float: towards zero, as Pipe-SGD, Li et al. 2018, shortens numbers.
struct Truncate : Bf16 {
  static constexpr const char* kFamily = "truncate";
  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) {
    return bits_of(p) >> 16 | (magnitude_bits(p) > 0x7F800000u ? 0x40u : 0u);
  }
};

struct Fp16 : Bf16 {
  static constexpr const char* kFamily = "fp16";
  HORA_HD static uint32_t code(float p, Scale, Key, uint32_t) {
    const uint32_t sign = (bits_of(p) >> 16) & 0x8000u, m = magnitude_bits(p);
    const uint32_t normal = (m + 0xC8000FFFu + ((m >> 13) & 1u)) >> 13;  // exponent bias 127 -> 15
    const uint32_t small =
        bits_of(float_of(m) + 0.5f) - 0x3F000000u;  // the adder rounds subnormals
    const uint32_t special = m > 0x7F800000u ? 0x7E00u : 0x7C00u;
    return sign | (m >= 0x47800000u ? special : m < 0x38800000u ? small : normal);
  }
  HORA_HD static float value(uint32_t code, Scale) {
    const uint32_t sign = (code & 0x8000u) << 16, m = (code & 0x7FFFu) << 13;
    const float normal = float_of(m + 0x38000000u);
    const float small = float_of(m + 0x38800000u) - float_of(0x38800000u);
    const float finite = (code & 0x7C00u) == 0 ? small : normal;
    return float_of(sign | ((code & 0x7C00u) == 0x7C00u ? m | 0x7F800000u : bits_of(finite)));
  }
};

HORA_QUANTIZERS(Bf16, Truncate, Fp16);

}  // namespace
}  // namespace hora::HORA_ISA
