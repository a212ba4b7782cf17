#include "benchmarks/fused.h"

#include <immintrin.h>

#include <cstdint>

namespace hora::benchmarks {
namespace {

constexpr size_t kBlock = 512, kRow = 32, kVector = 16;

__m512i magnitudes(__m512 p) {
  return _mm512_and_si512(_mm512_castps_si512(p), _mm512_set1_epi32(0x7FFFFFFF));
}

/// Gradient and residual of a block into a tile; the largest magnitude.
float peak_of(const float* g, const float* e, float* tile) {
  __m512i most[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 4
  for (size_t i = 0; i < kBlock; i += kVector) {
    const __m512 p = _mm512_add_ps(_mm512_loadu_ps(g + i), _mm512_loadu_ps(e + i));
    _mm512_store_ps(tile + i, p);
    most[i / kVector % 2] = _mm512_max_epi32(most[i / kVector % 2], magnitudes(p));
  }
  const __m512i both = _mm512_max_epi32(most[0], most[1]);
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(both))));
}

bool finite(float x) {
  return x - x == 0;
}

/// Uniform levels to the nearest.
template <int kBits>
struct Levels {
  static constexpr int kSide = (1 << (kBits - 1)) - 1;
  explicit Levels(float peak) {
    const float over = static_cast<float>(kSide) / peak;
    step = peak / static_cast<float>(kSide);
    inverse = _mm512_set1_ps(finite(over) ? over : 0.0f);
  }
  __m512i code(__m512 p) const {
    const __m512 side = _mm512_set1_ps(static_cast<float>(kSide)), half = _mm512_set1_ps(0.5f);
    const __m512 level = _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(p, inverse), side), half);
    return _mm512_min_epi32(_mm512_cvttps_epi32(level), _mm512_set1_epi32(2 * kSide));
  }
  __m512 value(__m512i code) const {
    const __m512i level = _mm512_sub_epi32(code, _mm512_set1_epi32(kSide));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(level), _mm512_set1_ps(step));
  }
  float sent() const { return step; }
  float step;
  __m512 inverse;
};

/// Powers of two of the peak, to the nearest; four bits.
struct Natural {
  static constexpr int kSide = 7, kLowest = 127 - (kSide - 1);  // the exponent of 2^-6
  explicit Natural(float peak) {
    const float over = 1 / peak;
    sent_peak = finite(over) ? peak : 0.0f;
    inverse = _mm512_set1_ps(finite(over) ? over : 0.0f);
  }
  __m512i code(__m512 p) const {
    const __m512 share = _mm512_mul_ps(_mm512_castsi512_ps(magnitudes(p)), inverse);
    const __m512i bits = _mm512_castps_si512(share);
    const __m512i exponent =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3FFFFF)), 23);
    const __mmask16 any = _mm512_cmpgt_epi32_mask(bits, _mm512_set1_epi32((kLowest - 1) << 23));
    __m512i level = _mm512_sub_epi32(exponent, _mm512_set1_epi32(kLowest - 1));
    level = _mm512_max_epi32(level, _mm512_maskz_set1_epi32(any, 1));
    level = _mm512_min_epi32(level, _mm512_set1_epi32(kSide));
    const __mmask16 below = _mm512_movepi32_mask(_mm512_castps_si512(p));
    return _mm512_mask_or_epi32(level, below, level, _mm512_set1_epi32(kSide + 1));
  }
  __m512 value(__m512i code) const {
    const __m512i level = _mm512_and_si512(code, _mm512_set1_epi32(kSide));
    const __m512i power =
        _mm512_slli_epi32(_mm512_add_epi32(level, _mm512_set1_epi32(kLowest - 1)), 23);
    const __mmask16 sent = _mm512_test_epi32_mask(level, level);
    const __mmask16 below = _mm512_cmpgt_epi32_mask(code, _mm512_set1_epi32(kSide));
    __m512i bits = _mm512_maskz_mov_epi32(sent, power);
    bits = _mm512_mask_or_epi32(bits, below, bits, _mm512_set1_epi32(INT32_MIN));
    return _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(sent_peak));
  }
  float sent() const { return sent_peak; }
  float sent_peak;
  __m512 inverse;
};

void store_bytes(std::byte* to, __m512i words) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(words));
}

template <class Q>
__m512i encode_vector(const Q& q, const float* tile, float* e) {
  const __m512 p = _mm512_load_ps(tile);
  const __m512i code = q.code(p);
  _mm512_storeu_ps(e, _mm512_sub_ps(p, q.value(code)));
  return code;
}

template <class Q>
void encode_bytes(const Q& q, const float* tile, float* e, std::byte* codes) {
#pragma GCC unroll 4
  for (size_t i = 0; i < kBlock; i += kVector)
    store_bytes(codes + i, encode_vector(q, tile + i, e + i));
}

/// Two rows share a byte.
template <class Q>
void encode_nibbles(const Q& q, const float* tile, float* e, std::byte* codes) {
#pragma GCC unroll 2
  for (size_t i = 0; i < kBlock; i += 2 * kRow, codes += kRow) {
    for (size_t half = 0; half < kRow; half += kVector) {
      const size_t at = i + half;
      const __m512i low = encode_vector(q, tile + at, e + at);
      const __m512i high = encode_vector(q, tile + at + kRow, e + at + kRow);
      store_bytes(codes + half, _mm512_or_si512(low, _mm512_slli_epi32(high, 4)));
    }
  }
}

template <class Q, bool kNibbles>
void encode_levels(const float* g, float* e, size_t count, std::byte* payload) {
  alignas(64) float tile[kBlock];
  auto* scales = reinterpret_cast<float*>(payload);
  std::byte* codes = payload + count / kBlock * sizeof(float);
  for (size_t at = 0; at < count; at += kBlock) {
    const Q q(peak_of(g + at, e + at, tile));
    *scales++ = q.sent();
    if constexpr (kNibbles)
      encode_nibbles(q, tile, e + at, codes);
    else
      encode_bytes(q, tile, e + at, codes);
    codes += kNibbles ? kBlock / 2 : kBlock;
  }
}

/// Signs, eight rows in a byte; what is left of a block for two values.
void encode_signs(const float* tile, float above, float below, float* e, std::byte* codes) {
  const __m512 up = _mm512_set1_ps(above), down = _mm512_set1_ps(below);
  for (size_t i = 0; i < kBlock; i += 8 * kRow, codes += kRow) {
    for (size_t half = 0; half < kRow; half += kVector) {
      __m512i bytes = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        const size_t at = i + half + static_cast<size_t>(k) * kRow;
        const __m512 p = _mm512_load_ps(tile + at);
        const __mmask16 lower = _mm512_movepi32_mask(_mm512_castps_si512(p));
        bytes = _mm512_mask_or_epi32(bytes, static_cast<__mmask16>(~lower), bytes,
                                     _mm512_set1_epi32(1 << k));
        _mm512_storeu_ps(e + at, _mm512_sub_ps(p, _mm512_mask_mov_ps(up, lower, down)));
      }
      store_bytes(codes + half, bytes);
    }
  }
}

/// 32 sums, joined in pairs.
float join(__m512 a, __m512 b) {
  alignas(64) float sums[kVector];
  _mm512_store_ps(sums, _mm512_add_ps(a, b));
  for (size_t half = kVector / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

void encode_two_means(const float* g, float* e, size_t count, std::byte* payload) {
  alignas(64) float tile[kBlock];
  auto* scales = reinterpret_cast<float*>(payload);
  std::byte* codes = payload + count / kBlock * 2 * sizeof(float);
  const __m512 zero = _mm512_setzero_ps();
  for (size_t at = 0; at < count; at += kBlock, codes += kBlock / 8) {
    __m512 up[2] = {zero, zero}, down[2] = {zero, zero};
    int ups = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < kBlock; i += kVector) {
      const __m512 p = _mm512_add_ps(_mm512_loadu_ps(g + at + i), _mm512_loadu_ps(e + at + i));
      _mm512_store_ps(tile + i, p);
      const __mmask16 lower = _mm512_movepi32_mask(_mm512_castps_si512(p));
      const size_t k = i / kVector % 2;
      up[k] = _mm512_mask_add_ps(up[k], static_cast<__mmask16>(~lower), up[k], p);
      down[k] = _mm512_mask_add_ps(down[k], lower, down[k], p);
      ups += 16 - __builtin_popcount(lower);
    }
    const auto n = static_cast<float>(ups), rest = static_cast<float>(kBlock) - n;
    const float above = n > 0 ? join(up[0], up[1]) / n : 0.0f;
    const float below = rest > 0 ? join(down[0], down[1]) / rest : 0.0f;
    *scales++ = above;
    *scales++ = below;
    encode_signs(tile, above, below, e + at, codes);
  }
}

void encode_units(const float* g, float* e, size_t count, std::byte* payload) {
  alignas(64) float tile[kBlock];
  auto* scales = reinterpret_cast<float*>(payload);
  std::byte* codes = payload + count / kBlock * sizeof(float);
  for (size_t at = 0; at < count; at += kBlock, codes += kBlock / 8) {
    *scales++ = finite(peak_of(g + at, e + at, tile)) ? 1.0f : 0.0f;
    encode_signs(tile, 1.0f, -1.0f, e + at, codes);
  }
}

constexpr FusedLoop kLoops[] = {
    {"ef+quant:bits=8,round=nearest", encode_levels<Levels<8>, false>},
    {"ef+quant:bits=4,round=nearest", encode_levels<Levels<4>, true>},
    {"ef+quant:bits=4,recon=natural,round=nearest", encode_levels<Natural, true>},
    {"ef+quant:bits=1,recon=twomean", encode_two_means},
    {"ef+quant:bits=1,recon=unit", encode_units},
};

}  // namespace

std::span<const FusedLoop> fused_loops() {
  const bool have = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return have ? std::span<const FusedLoop>(kLoops) : std::span<const FusedLoop>();
}

}  // namespace hora::benchmarks
