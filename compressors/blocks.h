#pragma once

#include "compressors/blocks_jobs.h"

// One quantizer, every machine. A quantizer is a struct of element functions:
//
//   kFamily, kFewest, kMost        its name, and for which bits a code there is (1 to 8, or 16)
//   kScales                        floats for each block (0 1 2)
//   kRandom, kPromises             does it draw; what the conformance suite shall hold it to
//   Sum, add(Sum&, p), join(a, b)  what it must know of a block, kSums words; join is commutative
//   fit(Sum, Block) -> Scale       the block's reconstruction, computed once
//   code(p, Scale, Key, index) -> uint32_t,  value(code, Scale) -> float
//   store(Scale, float*), load(const float*, bits) -> Scale  what of it is sent
//   kRefines                       true: a second walk with again(Sum&, p, Scale), then refit()
//
// How many bits a code has is a number in the Scale, not a type: only the packing of a device's
// lane is compiled for each width, the host's arithmetic once for all.
//
// A block is `bucket` elements, counted from element 0 of the tensor, in rows of 32 lanes. Host
// SIMD lanes and a CUDA warp both run it as 32 lanes, each down its own column, then join pairwise
// at distance 16, 8, 4, 2, 1: one order of summation, hence the same bytes everywhere. Payload:
// scales of all blocks, then the codes in strips of some rows (strip_rows): for each lane one byte
// of that lane's next rows, lane beside lane. For 16 bits a strip is a row of half words; for 3, 5,
// 6 and 7 bits it is 8 rows, first the lowest bit of all of them, then the next.

namespace hora {

/// What is known of a block beside its elements.
struct Block {
  uint32_t count;
  int bits;
  float parameter;  ///< what `quant:scale=` says
};

/// For quantizers to derive from: a block's largest magnitude. Magnitudes compare as integers, and
/// a NaN or an Inf beats every number.
struct Peak {
  static constexpr int kSums = 1;
  using Word = uint32_t;
  struct Sum {
    uint32_t word[1] = {};
  };
  HORA_HD static void add(Sum& s, float p) {
    const uint32_t m = magnitude_bits(p);
    s.word[0] = m > s.word[0] ? m : s.word[0];
  }
  HORA_HD static Sum join(Sum a, Sum b) {
    return {{a.word[0] > b.word[0] ? a.word[0] : b.word[0]}};
  }
  HORA_HD static bool all_finite(Sum s) { return s.word[0] < 0x7F800000u; }
};

/// For quantizers to derive from: the sum of a block's squares.
struct Squares {
  static constexpr int kSums = 1;
  using Word = float;
  struct Sum {
    float word[1] = {};
  };
  HORA_HD static void add(Sum& s, float p) { s.word[0] += p * p; }
  HORA_HD static Sum join(Sum a, Sum b) { return {{a.word[0] + b.word[0]}}; }
};

template <Mode kMode>
HORA_HD float compensated(const float* g, const float* e, float input_scale, float residual_scale,
                          uint64_t i) {
  if constexpr (kMode == Mode::kPlain) return input_scale * g[i];
  return input_scale * g[i] + residual_scale * e[i];
}

template <Mode kMode>
HORA_HD float compensated(const EncodeJob& job, uint64_t i) {
  return compensated<kMode>(job.input, job.residual, job.input_scale, job.residual_scale, i);
}

/// What sending `value` for `p` leaves behind. Without scales no block can be poisoned, so there an
/// element that did not survive (NaN, Inf, overflow) leaves its own residual as it was.
template <class Q>
HORA_HD float left_over(float p, float value, float before) {
  if constexpr (Q::kScales > 0) return p - value;
  const uint32_t sent = is_finite(value) ? ~0u : 0u;
  return float_of((bits_of(p - value) & sent) | (bits_of(before) & ~sent));
}

/// One lane's walk down its column of the block [begin, begin + n); `kAgain`: the second one.
template <class Q, Mode kMode, bool kAgain>
HORA_HD typename Q::Sum lane_sum(const EncodeJob& job, typename Q::Scale scale, uint64_t begin,
                                 uint32_t n, uint32_t lane) {
  typename Q::Sum sum{};
  for (uint32_t i = lane; i < n; i += kLanes) {
    const float p = compensated<kMode>(job, begin + i);
    if constexpr (kAgain)
      Q::again(sum, p, scale);
    else
      Q::add(sum, p);
  }
  return sum;
}

/// One lane's bytes of the strip that begins at `row`, stored; updates the residual on the way.
template <class Q, int kBits, Mode kMode>
HORA_HD void lane_codes(const EncodeJob& job, typename Q::Scale scale, Key key, uint64_t begin,
                        uint32_t n, uint32_t row, uint32_t lane, uint8_t* codes) {
  constexpr uint32_t kRows = strip_rows(kBits), kBytes = strip_bytes(kBits);
  uint64_t packed = 0;
  HORA_UNROLL
  for (uint32_t k = 0; k < kRows; ++k) {
    const uint32_t i = (row + k) * kLanes + lane;
    if (i >= n) break;
    const float p = compensated<kMode>(job, begin + i);
    const uint64_t code = Q::code(p, scale, key, static_cast<uint32_t>(job.first + begin + i));
    if constexpr (kMode != Mode::kPlain) {
      job.residual[begin + i] =
          left_over<Q>(p, Q::value(static_cast<uint32_t>(code), scale), job.residual[begin + i]);
    }
    if constexpr (kBytes <= 2) packed |= code << (k * kBits % 32);
    for (uint32_t bit = 0; kBytes > 2 && bit < kBytes; ++bit)
      packed |= (code >> bit & 1) << (8 * bit + k);
  }
  codes += row / kRows * kBytes * kLanes;
  if constexpr (kBits == 16) {
    reinterpret_cast<uint16_t*>(codes)[lane] = static_cast<uint16_t>(packed);
  } else {
    for (uint32_t byte = 0; byte < kBytes; ++byte)
      codes[byte * kLanes + lane] = static_cast<uint8_t>(packed >> (8 * byte));
  }
}

template <class Q, int kBits>
HORA_HD float lane_value(const uint8_t* codes, typename Q::Scale scale, uint32_t row,
                         uint32_t lane) {
  constexpr uint32_t kRows = strip_rows(kBits), kBytes = strip_bytes(kBits);
  if constexpr (kBits == 16) {
    uint16_t half;
    __builtin_memcpy(&half, codes + (row * kLanes + lane) * 2, 2);
    return Q::value(half, scale);
  } else if constexpr (kBytes > 1) {
    uint32_t code = 0;
    HORA_UNROLL
    for (uint32_t bit = 0; bit < kBytes; ++bit)
      code |= (codes[(row / kRows * kBytes + bit) * kLanes + lane] >> (row % kRows) & 1u) << bit;
    return Q::value(code, scale);
  } else {
    const uint32_t byte = codes[row / kRows * kLanes + lane];
    return Q::value((byte >> (row % kRows * kBits)) & ((1u << kBits) - 1), scale);
  }
}

}  // namespace hora

#if defined(__CUDACC__)
#include "compressors/blocks_device.inc"
#elif defined(HORA_WARP)
#include "compressors/blocks_warp.inc"
#else
#include "compressors/blocks_host.inc"
#endif

namespace hora::HORA_ISA {

template <class Q, int kBits>
constexpr BlockKernels kKernels = {Q::kFamily,
                                   BlockKernels::Isa::HORA_ISA,
                                   kBits,
                                   Q::kScales,
                                   Q::kRandom,
                                   Q::kPromises,
                                   encode<Q, kBits>,
                                   decode<Q, kBits>};

template <class Q, int kBits = Q::kFewest>
bool register_widths() {
  register_kernels(&kKernels<Q, kBits>);
  if constexpr (kBits < Q::kMost) register_widths<Q, kBits + 1>();
  return true;
}

}  // namespace hora::HORA_ISA

/// Makes the quantizers named known for all their widths; once, in the file's anonymous namespace.
#define HORA_QUANTIZERS(...)              \
  template <class... Q>                   \
  bool register_all() {                   \
    return (register_widths<Q>() && ...); \
  }                                       \
  [[maybe_unused]] const bool kRegistered = register_all<__VA_ARGS__>()
