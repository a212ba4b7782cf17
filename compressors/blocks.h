#pragma once

#include "compressors/blocks_jobs.h"

// One quantizer, every machine. A quantizer is a struct of element functions:
//
//   kBits, kScales                 bits for each code (1 to 8, 16), floats for each block (0 1 2)
//   kRandom, kPromises             does it draw; what the conformance suite shall hold it to
//   Sum, add(Sum&, p), join(a, b)  what it must know of a block, kSums words; join is commutative
//   fit(Sum, n, parameter) -> Scale  the block's reconstruction, computed once
//   code(p, Scale, random) -> uint32_t,  value(code, Scale) -> float
//   kRefines                       true: a second walk with again(Sum&, p, Scale), then refit()
//
// A block is `bucket` elements, counted from element 0 of the tensor, in rows of 32 lanes. Host
// SIMD lanes and a CUDA warp both run it as 32 lanes, each down its own column, then join pairwise
// at distance 16, 8, 4, 2, 1: one order of summation, hence the same bytes everywhere. Payload:
// scales of all blocks, then the codes in strips of some rows (strip_rows): for each lane one byte
// of that lane's next rows, lane beside lane. For 16 bits a strip is a row of half words; for 3, 5,
// 6 and 7 bits it is 8 rows, first the lowest bit of all of them, then the next.

namespace hora {

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
template <class Q, Mode kMode>
HORA_HD void lane_codes(const EncodeJob& job, typename Q::Scale scale, Key key, uint64_t begin,
                        uint32_t n, uint32_t row, uint32_t lane, uint8_t* codes) {
  constexpr uint32_t kRows = strip_rows(Q::kBits), kBytes = strip_bytes(Q::kBits);
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
    if constexpr (kBytes <= 2) packed |= code << (k * Q::kBits % 32);
    for (uint32_t bit = 0; kBytes > 2 && bit < kBytes; ++bit)
      packed |= (code >> bit & 1) << (8 * bit + k);
  }
  codes += row / kRows * kBytes * kLanes;
  if constexpr (Q::kBits == 16) {
    reinterpret_cast<uint16_t*>(codes)[lane] = static_cast<uint16_t>(packed);
  } else {
    for (uint32_t byte = 0; byte < kBytes; ++byte)
      codes[byte * kLanes + lane] = static_cast<uint8_t>(packed >> (8 * byte));
  }
}

template <class Q>
HORA_HD float lane_value(const uint8_t* codes, typename Q::Scale scale, uint32_t row,
                         uint32_t lane) {
  constexpr uint32_t kRows = strip_rows(Q::kBits), kBytes = strip_bytes(Q::kBits);
  if constexpr (Q::kBits == 16) {
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
    return Q::value((byte >> (row % kRows * Q::kBits)) & ((1u << Q::kBits) - 1), scale);
  }
}

}  // namespace hora

/// Makes quantizer `Q` known as `family`, in the file's anonymous namespace.
#define HORA_QUANTIZER(Q, family)                                               \
  constexpr BlockKernels k##Q##Kernels =                                        \
      kernels_of<Q>(family, BlockKernels::Isa::HORA_ISA, encode<Q>, decode<Q>); \
  [[maybe_unused]] const bool k##Q##Registered = register_kernels(&k##Q##Kernels)

#if defined(__CUDACC__)
#include "compressors/blocks_device.inc"
#elif defined(HORA_WARP)
#include "compressors/blocks_warp.inc"
#else
#include "compressors/blocks_host.inc"
#endif
