#pragma once

#include "compressors/blocks_jobs.h"

// One quantizer, every machine. A quantizer is a struct of element functions:
//
//   kBits, kScales                 bits for each code (1 2 4 8 16), floats for each block (0 1 2)
//   kRandom, kPromises             does it draw; what the conformance suite shall hold it to
//   Sum, add(Sum&, p), join(a, b)  what it must know of a block, kSums words; join is commutative
//   fit(Sum, n) -> Scale           the block's reconstruction, computed once
//   code(p, Scale, random) -> uint32_t,  value(code, Scale) -> float
//
// A block is `bucket` elements, counted from element 0 of the tensor, in rows of 32 lanes. Host
// SIMD lanes and a CUDA warp both run it as 32 lanes, each down its own column, then join pairwise
// at distance 16, 8, 4, 2, 1: one order of summation, hence the same bytes everywhere. Payload:
// scales of all blocks, then the codes. A strip is 32 bytes, one for each lane, holding that lane's
// next 8 / kBits rows (for 16 bits: 64 bytes, one row).

namespace hora {

template <Mode kMode>
HORA_HD float compensated(const float* g, const float* e, float input_scale, float residual_scale,
                          uint64_t i) {
  if constexpr (kMode == Mode::kPlain) return input_scale * g[i];
  if constexpr (kMode == Mode::kHeld) return e[i];
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

/// One lane's walk down its column of the block [begin, begin + n).
template <class Q, Mode kMode>
HORA_HD typename Q::Sum lane_sum(const EncodeJob& job, uint64_t begin, uint32_t n, uint32_t lane) {
  typename Q::Sum sum{};
  for (uint32_t i = lane; i < n; i += kLanes) Q::add(sum, compensated<kMode>(job, begin + i));
  return sum;
}

/// One lane's byte (or half word) of one strip; updates the residual on the way.
template <class Q, Mode kMode, bool kWhole>
HORA_HD uint32_t lane_codes(const EncodeJob& job, typename Q::Scale scale, Key key, uint64_t begin,
                            uint32_t n, uint32_t row, uint32_t lane) {
  constexpr uint32_t kRows = Q::kBits == 16 ? 1 : 8 / Q::kBits;
  uint32_t packed = 0;
  HORA_UNROLL
  for (uint32_t k = 0; k < kRows; ++k) {
    const uint32_t i = (row + k) * kLanes + lane;
    if (!kWhole && i >= n) break;
    const float p = compensated<kMode>(job, begin + i);
    const uint32_t code = Q::code(p, scale, key, static_cast<uint32_t>(job.first + begin + i));
    if constexpr (kMode != Mode::kPlain) {
      job.residual[begin + i] = left_over<Q>(p, Q::value(code, scale), job.residual[begin + i]);
    }
    packed |= code << (k * Q::kBits % 32);
  }
  return packed;
}

template <class Q>
HORA_HD float lane_value(const uint8_t* codes, typename Q::Scale scale, uint32_t row,
                         uint32_t lane) {
  if constexpr (Q::kBits == 16) {
    uint16_t half;
    __builtin_memcpy(&half, codes + (row * kLanes + lane) * 2, 2);
    return Q::value(half, scale);
  } else {
    constexpr uint32_t kRows = 8 / Q::kBits;
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
