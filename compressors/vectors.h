#pragma once

#include <cstddef>

#include "compressors/blocks_jobs.h"

namespace hora {

/// Matrix products in small parts, on one instruction set; all give the same bytes. A row begins
/// `stride` after the one before.
struct VectorKernels {
  BlockKernels::Isa isa;
  /// Sixteen sums side by side for each of `rank` rows: sums[16 k + i % 16] += x[i] row_k[i].
  void (*add_products)(const float* x, const float* rows, size_t stride, size_t rank, size_t count,
                       float* sums);
  /// to[i] += scales[k] row_k[i], one row after the other; `to` overlaps none of them.
  void (*add_rows)(const float* scales, const float* rows, size_t stride, size_t rank, size_t count,
                   float* to);
};
constexpr size_t kSide = 16;  ///< sums of a dot product

/// As register_kernels(const BlockKernels*).
bool register_kernels(const VectorKernels* kernels);

/// Those for this machine, or for the instruction set that was chosen.
const VectorKernels& host_vectors();

/// What add_products() has put into kSide sums, joined in pairs at distance 8, 4, 2, 1.
HORA_HD float join(const float* sums) {
  typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
  const auto* at = reinterpret_cast<const Four*>(sums);
  const Four four = (at[0] + at[2]) + (at[1] + at[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

float dot(const float* a, const float* b, size_t count);

/// to[i] += scale from[i]; they do not overlap.
void add_scaled(float scale, const float* from, size_t count, float* to);

bool all_zero(const float* x, size_t count);

/// Gram-Schmidt over `rank` vectors of n elements, one behind the other; one that depends on those
/// before it becomes zero.
void orthonormalize(float* vectors, size_t rank, size_t n);

}  // namespace hora
