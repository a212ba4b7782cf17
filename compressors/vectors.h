#pragma once

#include <cstddef>

namespace hora {

/// Sixteen sums side by side, joined in pairs: one order, and vectors.
float dot(const float* a, const float* b, size_t count);

/// to[i] += scale from[i]; they do not overlap.
void add_scaled(float scale, const float* from, size_t count, float* to);

bool all_zero(const float* x, size_t count);

/// Gram-Schmidt over `rank` vectors of n elements, one behind the other; one that depends on those
/// before it becomes zero.
void orthonormalize(float* vectors, size_t rank, size_t n);

}  // namespace hora
