#include "compressors/vectors.h"

#include <algorithm>
#include <cmath>

namespace hora {

float dot(const float* a, const float* b, size_t count) {
  float sums[kSide] = {};
  host_vectors().add_products(a, b, 0, 1, count, sums);
  return join(sums);
}

void add_scaled(float scale, const float* from, size_t count, float* to) {
  host_vectors().add_rows(&scale, from, 0, 1, count, to);
}

bool all_zero(const float* x, size_t count) {
  return std::all_of(x, x + count, [](float value) { return value == 0; });
}

void orthonormalize(float* p, size_t rank, size_t n) {
  for (size_t k = 0; k < rank; ++k) {
    float* column = p + k * n;
    const float before = dot(column, column, n);
    for (size_t other = 0; other < k; ++other)
      add_scaled(-dot(column, p + other * n, n), p + other * n, n, column);
    const float left = dot(column, column, n);
    // What is left of a dependent vector is rounding: as a direction it would be noise.
    const bool vanished = !(left > 1e-12f * before) || !(left > 1e-30f);
    const float scale = vanished ? 0.0f : 1.0f / std::sqrt(left);
    for (size_t i = 0; i < n; ++i) column[i] *= scale;
  }
}

}  // namespace hora
