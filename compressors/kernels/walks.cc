// Walks over memory that is too large for any cache: whatever can be done on
// one way is done on it.

#include "compressors/walks.h"

#if defined(__SSE2__)
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

/// Visits all elements, the last part first: what a look saw last is in the
/// cache still when the walk that it allows begins.
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

#if defined(__AVX512F__)
constexpr size_t kWide = 16;
#elif defined(__AVX2__)
constexpr size_t kWide = 8;
#else
constexpr size_t kWide = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kWide), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kWide)));

/// A bit for each lane: is it less than zero?
HORA_HD uint64_t negative(const Ints& lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)lanes);
#elif defined(__AVX2__)
  return static_cast<uint64_t>(_mm256_movemask_ps((__m256)lanes));
#elif defined(__SSE2__)
  return static_cast<uint64_t>(_mm_movemask_ps((__m128)lanes));
#else
  uint64_t bits = 0;
  for (size_t lane = 0; lane < kWide; ++lane)
    bits |= uint64_t{static_cast<uint32_t>(lanes[lane]) >> 31} << lane;
  return bits;
#endif
}

/// What was seen so far, lane by lane: the largest magnitude; how many were
/// more than zero, and how many no zero.
struct Seen {
  Ints most = {}, above = {}, nonzero = {};
};
static_assert(kStretch == 64);  // the bits of a word

/// Looks at a stretch: returns a bit for each number that reaches its floor.
/// The numbers are kept in the residual if that is asked for. `least` is one
/// less than the floor without a sign, and with one after an exclusive or with
/// `change`.
template <bool kRemembers, bool kSettles>
HORA_HD uint64_t look(const float* g, float* e, float gs, float es, int32_t least, int32_t change,
                      Seen& seen) {
  const Ints zeros = {};
  uint64_t reach = 0;
#pragma GCC unroll 16
  for (size_t i = 0; i < kStretch; i += kWide) {
    Floats p = gs * *reinterpret_cast<const Floats*>(g + i);
    if constexpr (kRemembers) p += es * *reinterpret_cast<const Floats*>(e + i);
    if constexpr (kSettles) *reinterpret_cast<Floats*>(e + i) = p;
    const Ints bits = (Ints)p, m = bits & 0x7FFFFFFF;
    seen.most = m > seen.most ? m : seen.most;
    seen.above -= bits > zeros;  // a true lane is -1
    seen.nonzero -= m > zeros;
    reach |= negative((((bits >> 31) & change) ^ least) - m) << i;
  }
  return reach;
}

/// The same for what is less than a stretch.
template <bool kRemembers, bool kSettles>
HORA_HD uint64_t look_at_rest(const float* g, float* e, float gs, float es, size_t n,
                              const uint32_t (&floors)[2], Seen& seen) {
  uint64_t reach = 0;
  for (size_t i = 0; i < n; ++i) {
    const float p = kRemembers ? gs * g[i] + es * e[i] : gs * g[i];
    if constexpr (kSettles) e[i] = p;
    const int32_t m = magnitude(p);
    seen.most[0] = m > seen.most[0] ? m : seen.most[0];
    seen.above[0] += static_cast<int32_t>(bits_of(p)) > 0;
    seen.nonzero[0] += m != 0;
    reach |= uint64_t{magnitude_bits(p) >= floors[bits_of(p) >> 31]} << i;
  }
  return reach;
}

template <bool kRemembers, bool kSettles>
Scanned scan_as(const ScanJob& job) {
  const Source& source = job.source;
  const float gs = source.input_scale, es = source.residual_scale;
  const auto least = static_cast<int32_t>(job.floors[0]) - 1;
  const int32_t change = least ^ (static_cast<int32_t>(job.floors[1]) - 1);
  Scanned scanned;
  Seen seen;
  for (size_t begin = 0; begin < job.count; begin += kStretch) {
    const float* g = source.input + begin;
    float* e = kRemembers ? source.residual + begin : nullptr;
    const size_t left = job.count - begin;
    uint64_t reach = left < kStretch
                         ? look_at_rest<kRemembers, kSettles>(g, e, gs, es, left, job.floors, seen)
                         : look<kRemembers, kSettles>(g, e, gs, es, least, change, seen);
    if (reach == 0 || scanned.overflow) continue;
    for (; reach != 0; reach &= reach - 1) {
      const auto i = static_cast<uint32_t>(__builtin_ctzll(reach));
      job.found[scanned.found] = static_cast<uint32_t>(begin) + i;
      job.numbers[scanned.found++] = kSettles     ? e[i]
                                     : kRemembers ? gs * g[i] + es * e[i]
                                                  : gs * g[i];
    }
    scanned.overflow = scanned.found > job.room;
  }
  for (size_t lane = 0; lane < kWide; ++lane) {
    scanned.poisoned |= seen.most[lane] >= static_cast<int32_t>(kInfinite);
    scanned.above += static_cast<uint32_t>(seen.above[lane]);
    scanned.below += static_cast<uint32_t>(seen.nonzero[lane] - seen.above[lane]);
  }
  return scanned;
}

Scanned scan(const ScanJob& job) {
  if (!job.source.residual) return scan_as<false, false>(job);
  if (job.source.input == job.source.residual) {  // all of it is there
    ScanJob settled = job;
    settled.source = {job.source.residual};
    return scan_as<false, false>(settled);
  }
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

typedef float Halves __attribute__((vector_size(2 * kWide), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(4 * kWide)));

double squares(const float* x, size_t count, float scale) {
  constexpr size_t kSide = 16, kHeld = kWide / 2, kParts = kSide / kHeld;
  Doubles held[kParts] = {};
  size_t i = 0;
  for (; i + kSide <= count; i += kSide) {
#pragma GCC unroll 8
    for (size_t k = 0; k < kParts; ++k) {
      const Halves values = scale * *reinterpret_cast<const Halves*>(x + i + k * kHeld);
      const Doubles wide = __builtin_convertvector(values, Doubles);
      held[k] += wide * wide;
    }
  }
  double sums[kSide];
  __builtin_memcpy(sums, held, sizeof(sums));
  for (size_t k = 0; i + k < count; ++k) {
    const double value = scale * x[i + k];
    sums[k] += value * value;
  }
  for (size_t half = kSide / 2; half > 0; half /= 2) {
    for (size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  return sums[0];
}

void clamp(const float* __restrict x, size_t count, float scale, float limit,
           float* __restrict to) {
  for (size_t i = 0; i < count; ++i) {
    const float value = scale * x[i], high = value > limit ? limit : value;
    to[i] = high < -limit ? -limit : high;
  }
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

constexpr WalkKernels kKernels = {BlockKernels::Isa::HORA_ISA,
                                  peak,
                                  read,
                                  scan,
                                  momentum_peak,
                                  momentum,
                                  squares,
                                  clamp,
                                  round_halves};
[[maybe_unused]] const bool kRegistered = register_kernels(&kKernels);

}  // namespace
}  // namespace hora::HORA_ISA
