// Walks over memory that is too large for any cache: whatever can be done on one way is done on it.

#include "compressors/walks.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace hora::HORA_ISA {
namespace {

constexpr uint32_t kInfinite = 0x7F800000u;
constexpr size_t kStretch = kScanSlack;  // elements that are looked at together

/// Magnitudes are not negative as integers, and these compare faster.
HORA_HD int32_t magnitude(float value) {
  return static_cast<int32_t>(magnitude_bits(value));
}

/// Visits all elements, the last part first: what a look saw last is in the cache still when the
/// walk that it allows begins.
template <class Visit>
HORA_HD void backwards(size_t count, Visit visit) {
  constexpr size_t kPart = 16384;
  for (size_t end = count; end > 0;) {
    const size_t begin = (end - 1) / kPart * kPart;
    visit(begin, end);
    end = begin;
  }
}

template <bool kRemembers>
uint32_t peak_as(const Source& source, size_t count) {
  const float *g = source.input, *e = source.residual;
  const float gs = source.input_scale, es = source.residual_scale;
  int32_t most = 0;
  backwards(count, [&](size_t begin, size_t end) {
    int32_t here = 0;
    for (size_t i = begin; i < end; ++i) {
      const int32_t m = magnitude(kRemembers ? gs * g[i] + es * e[i] : gs * g[i]);
      here = m > here ? m : here;
    }
    most = here > most ? here : most;
  });
  return static_cast<uint32_t>(most);
}

uint32_t peak(const Source& source, size_t count) {
  return source.residual ? peak_as<true>(source, count) : peak_as<false>(source, count);
}

template <bool kRemembers>
uint32_t read_as(const Source& source, size_t count, float* to) {
  const float *g = source.input, *e = source.residual;
  const float gs = source.input_scale, es = source.residual_scale;
  int32_t most = 0;
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) {
    const float p = kRemembers ? gs * g[i] + es * e[i] : gs * g[i];
    const int32_t m = magnitude(p);
    most = m > most ? m : most;
    to[i] = p;
  }
  return static_cast<uint32_t>(most);
}

uint32_t read(const Source& source, size_t count, float* to) {
  return source.residual ? read_as<true>(source, count, to) : read_as<false>(source, count, to);
}

/// The numbers of a stretch's first n elements, kept in the residual if that is asked for; returns
/// the largest magnitude.
template <bool kRemembers, bool kSettles>
HORA_HD int32_t look(const float* __restrict g, float* __restrict e, float gs, float es, size_t n,
                     uint32_t* __restrict magnitudes) {
  for (size_t i = 0; i < n; ++i) {
    const float p = kRemembers ? gs * g[i] + es * e[i] : gs * g[i];
    if (kSettles) e[i] = p;
    magnitudes[i] = magnitude_bits(p);
  }
  int32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    const auto m = static_cast<int32_t>(magnitudes[i]);
    most = m > most ? m : most;
  }
  return most;
}

/// Appends the offsets of those of n magnitudes that reach `floor`; there is room for a stretch.
HORA_HD size_t collect(const uint32_t* magnitudes, size_t n, uint32_t floor, size_t begin,
                       uint32_t* found) {
  size_t taken = 0;
  const auto first = static_cast<uint32_t>(begin);
#if defined(__AVX512F__)
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i least = _mm512_set1_epi32(static_cast<int>(floor));
  for (uint32_t i = 0; n == kStretch && i < kStretch; i += 16) {
    const __mmask16 reach = _mm512_cmpge_epu32_mask(_mm512_loadu_si512(magnitudes + i), least);
    const __m512i offsets = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first + i)));
    // Compressing in a register: straight to memory takes some machines a hundred cycles.
    _mm512_storeu_si512(found + taken, _mm512_maskz_compress_epi32(reach, offsets));
    taken += static_cast<size_t>(__builtin_popcount(reach));
  }
  if (n == kStretch) return taken;
#endif
  for (uint32_t i = 0; i < static_cast<uint32_t>(n); ++i) {
    found[taken] = first + i;
    taken += magnitudes[i] >= floor;
  }
  return taken;
}

template <bool kRemembers, bool kSettles>
Scanned scan_as(const ScanJob& job) {
  const float* const g = job.source.input;
  float* const e = job.source.residual;
  const float gs = job.source.input_scale, es = job.source.residual_scale;
  const uint32_t floor = job.floor;
  Scanned scanned;
  alignas(64) uint32_t magnitudes[kStretch];
  for (size_t begin = 0; begin < job.count; begin += kStretch) {
    const size_t left = job.count - begin, n = left < kStretch ? left : kStretch;
    float* const kept = kRemembers ? e + begin : nullptr;
    const auto most = static_cast<uint32_t>(
        n == kStretch ? look<kRemembers, kSettles>(g + begin, kept, gs, es, kStretch, magnitudes)
                      : look<kRemembers, kSettles>(g + begin, kept, gs, es, n, magnitudes));
    if (most >= kInfinite) scanned.poisoned = true;
    if (most < floor || scanned.overflow) continue;
    scanned.found += collect(magnitudes, n, floor, begin, job.found + scanned.found);
    scanned.overflow = scanned.found > job.room;
  }
  return scanned;
}

Scanned scan(const ScanJob& job) {
  if (!job.source.residual) return scan_as<false, false>(job);
  return job.settle ? scan_as<true, true>(job) : scan_as<true, false>(job);
}

/// What one element's step adds to its residual; updates its velocity.
template <bool kNesterov>
HORA_HD float advance(float x, float m, float* velocity) {
  const float now = kNesterov ? m * (*velocity + x) : m * *velocity + x;
  *velocity = now;
  return kNesterov ? now + x : now;
}

template <bool kNesterov>
uint32_t momentum_peak_as(const MomentumJob& job) {
  const float *g = job.input, *u = job.velocity;
  const float scale = job.input_scale, m = job.momentum;
  int32_t most = 0;
  backwards(job.count, [&](size_t begin, size_t end) {
    int32_t here = 0;
    for (size_t i = begin; i < end; ++i) {
      float velocity = u[i];
      const int32_t step = magnitude(advance<kNesterov>(scale * g[i], m, &velocity));
      here = step > here ? step : here;
    }
    most = here > most ? here : most;
  });
  return static_cast<uint32_t>(most);
}

uint32_t momentum_peak(const MomentumJob& job) {
  return job.nesterov ? momentum_peak_as<true>(job) : momentum_peak_as<false>(job);
}

template <bool kNesterov>
void momentum_as(const MomentumJob& job) {
  const float* __restrict g = job.input;
  float* __restrict u = job.velocity, * __restrict v = job.residual;
  const float scale = job.input_scale, m = job.momentum;
  for (size_t i = 0; i < job.count; ++i) {
    float velocity = u[i];
    v[i] += advance<kNesterov>(scale * g[i], m, &velocity);
    u[i] = velocity;
  }
}

void momentum(const MomentumJob& job) {
  return job.nesterov ? momentum_as<true>(job) : momentum_as<false>(job);
}

void round_halves(const float* __restrict from, size_t count, Key key, uint64_t first,
                  uint16_t* __restrict to) {
  constexpr uint64_t kSpan = uint64_t{1} << 32;  // of what one key is for
  for (size_t begin = 0; begin < count;) {
    const uint64_t at = first + begin, left = kSpan - at % kSpan;
    const size_t end = count - begin < left ? count : begin + left;
    const Key here = key_at(key, at);
    const auto index = static_cast<uint32_t>(at - begin);
    for (size_t i = begin; i < end; ++i) {
      const uint32_t dither = random_bits(here, index + static_cast<uint32_t>(i)) & 0xFFFFu;
      const uint32_t bits = bits_of(from[i]), up = (bits + dither) >> 16;
      // The largest floats would become infinite.
      to[i] = static_cast<uint16_t>((up & 0x7F80u) == 0x7F80u ? bits >> 16 : up);
    }
    begin = end;
  }
}

constexpr WalkKernels kKernels = {
    BlockKernels::Isa::HORA_ISA, peak, read, scan, momentum_peak, momentum, round_halves};
[[maybe_unused]] const bool kRegistered = register_kernels(&kKernels);

}  // namespace
}  // namespace hora::HORA_ISA
