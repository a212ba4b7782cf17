// The Walsh-Hadamard transform of `hadamard`, in passes that take several levels of butterflies on
// one way through memory. The levels come in the same order for every element, whatever the passes,
// so that the bytes depend on none of it.

#include "compressors/rotate.h"

namespace hora::HORA_ISA {
namespace {

// A tile is done in registers and L1, a chunk stays in L1.
constexpr size_t kSide = 16, kTile = kSide * kSide, kChunk = 4096;

/// Sums and differences of elements `h` apart.
void butterflies(float* x, size_t n, size_t h) {
  for (size_t i = 0; i < n; i += 2 * h) {
    float *a = x + i, *b = x + i + h;
#pragma GCC ivdep
    for (size_t j = 0; j < h; ++j) {
      const float sum = a[j] + b[j], difference = a[j] - b[j];
      a[j] = sum;
      b[j] = difference;
    }
  }
}

/// Two levels at once, h and 2 h apart.
HORA_HD void double_butterflies(float* x, size_t n, size_t h) {
  for (size_t i = 0; i < n; i += 4 * h) {
    float *a = x + i, *b = a + h, *c = b + h, *d = c + h;
#pragma GCC ivdep
    for (size_t j = 0; j < h; ++j) {
      const float ab = a[j] + b[j], a_b = a[j] - b[j], cd = c[j] + d[j], c_d = c[j] - d[j];
      a[j] = ab + cd;
      b[j] = a_b + c_d;
      c[j] = ab - cd;
      d[j] = a_b - c_d;
    }
  }
}

/// Three levels at once.
void triple_butterflies(float* x, size_t n, size_t h) {
  for (size_t i = 0; i < n; i += 8 * h) {
    float* at = x + i;
#pragma GCC ivdep
    for (size_t j = 0; j < h; ++j) {
      const float a = at[j], b = at[j + h], c = at[j + 2 * h], d = at[j + 3 * h];
      const float e = at[j + 4 * h], f = at[j + 5 * h], g = at[j + 6 * h], k = at[j + 7 * h];
      const float ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
      const float ef = e + f, e_f = e - f, gk = g + k, g_k = g - k;
      const float low0 = ab + cd, low1 = a_b + c_d, low2 = ab - cd, low3 = a_b - c_d;
      const float high0 = ef + gk, high1 = e_f + g_k, high2 = ef - gk, high3 = e_f - g_k;
      at[j] = low0 + high0;
      at[j + h] = low1 + high1;
      at[j + 2 * h] = low2 + high2;
      at[j + 3 * h] = low3 + high3;
      at[j + 4 * h] = low0 - high0;
      at[j + 5 * h] = low1 - high1;
      at[j + 6 * h] = low2 - high2;
      at[j + 7 * h] = low3 - high3;
    }
  }
}

/// The transform of 256 numbers, rows and columns changed: neighbors never meet, so that all is
/// done in vectors. Changing rows and columns before or after is the same, hence it is its own
/// inverse.
void transform_tile(float* x) {
  alignas(64) float turned[kTile];
  double_butterflies(x, kTile, kSide);
  double_butterflies(x, kTile, 4 * kSide);
  for (size_t row = 0; row < kSide; ++row) {
    for (size_t column = 0; column < kSide; ++column)
      turned[row * kSide + column] = x[column * kSide + row];
  }
  double_butterflies(turned, kTile, kSide);
  double_butterflies(turned, kTile, 4 * kSide);
  __builtin_memcpy(x, turned, sizeof(turned));
}

/// The levels from h on.
void levels_from(float* x, size_t n, size_t h) {
  for (; 8 * h <= n; h *= 8) triple_butterflies(x, n, h);
  if (4 * h <= n)
    double_butterflies(x, n, h);
  else if (2 * h <= n)
    butterflies(x, n, h);
}

void walsh_hadamard(float* x, size_t n) {
  const size_t chunk = n < kChunk ? n : kChunk;
  for (size_t at = 0; at < n; at += chunk) {
    for (size_t tile = 0; chunk >= kTile && tile < chunk; tile += kTile)
      transform_tile(x + at + tile);
    levels_from(x + at, chunk, chunk >= kTile ? kTile : 1);
  }
  levels_from(x, n, chunk);
  const float unit = 1.0f / __builtin_sqrtf(static_cast<float>(n));
  for (size_t i = 0; i < n; ++i) x[i] *= unit;
}

void flip_signs(float* x, size_t n, Key key, uint32_t index) {
  for (uint32_t i = 0; i < static_cast<uint32_t>(n); ++i)
    x[i] = float_of(bits_of(x[i]) ^ (random_bits(key, index + i) & 0x80000000u));
}

void forward(float* x, size_t n, size_t width, Key key, uint32_t index) {
  flip_signs(x, n, key, index);
  walsh_hadamard(x, width);
}

void back(float* x, size_t n, size_t width, Key key, uint32_t index) {
  walsh_hadamard(x, width);
  flip_signs(x, n, key, index);
}

constexpr RotateKernels kKernels = {BlockKernels::Isa::HORA_ISA, forward, back};
[[maybe_unused]] const bool kRegistered = register_kernels(&kKernels);

}  // namespace
}  // namespace hora::HORA_ISA
