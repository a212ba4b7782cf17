// Products of matrices with few rows. Several rows go through a stretch of elements together, so
// that what they share is loaded once and no sum waits for the one before it.

#include "compressors/vectors.h"

namespace hora::HORA_ISA {
namespace {

#if defined(__AVX512F__)
constexpr size_t kWide = 16, kTogether = 8;  // floats in a vector; rows
#elif defined(__AVX2__)
constexpr size_t kWide = 8, kTogether = 4;
#else
constexpr size_t kWide = 4, kTogether = 2;
#endif
constexpr size_t kParts = kSide / kWide;

typedef float Vector __attribute__((vector_size(4 * kWide), aligned(4), may_alias));

HORA_HD const Vector& at(const float* x) {
  return *reinterpret_cast<const Vector*>(x);
}
HORA_HD Vector& at(float* x) {
  return *reinterpret_cast<Vector*>(x);
}

template <size_t kRows>
HORA_HD void add_some_products(const float* __restrict x, const float* __restrict rows,
                               size_t stride, size_t count, float* __restrict sums) {
  Vector held[kRows][kParts];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t k = 0; k < kParts; ++k) held[r][k] = at(sums + r * kSide + k * kWide);
  }
  const size_t whole = count / kSide * kSide;
  for (size_t i = 0; i < whole; i += kSide) {
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (size_t k = 0; k < kParts; ++k)
        held[r][k] += at(x + i + k * kWide) * at(rows + r * stride + i + k * kWide);
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t k = 0; k < kParts; ++k) at(sums + r * kSide + k * kWide) = held[r][k];
    for (size_t i = whole; i < count; ++i)
      sums[r * kSide + i - whole] += x[i] * rows[r * stride + i];
  }
}

void add_products(const float* x, const float* rows, size_t stride, size_t rank, size_t count,
                  float* sums) {
  size_t r = 0;
  for (; r + kTogether <= rank; r += kTogether)
    add_some_products<kTogether>(x, rows + r * stride, stride, count, sums + r * kSide);
  if constexpr (kTogether > 4) {
    for (; r + 4 <= rank; r += 4)
      add_some_products<4>(x, rows + r * stride, stride, count, sums + r * kSide);
  }
  if constexpr (kTogether > 2) {
    for (; r + 2 <= rank; r += 2)
      add_some_products<2>(x, rows + r * stride, stride, count, sums + r * kSide);
  }
  for (; r < rank; ++r) add_some_products<1>(x, rows + r * stride, stride, count, sums + r * kSide);
}

void add_rows(const float* scales, const float* rows, size_t stride, size_t rank, size_t count,
              float* to) {
  constexpr size_t kHeld = 4, kBlock = kHeld * kWide;
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    Vector held[kHeld];
#pragma GCC unroll 4
    for (size_t k = 0; k < kHeld; ++k) held[k] = at(to + i + k * kWide);
    for (size_t r = 0; r < rank; ++r) {
#pragma GCC unroll 4
      for (size_t k = 0; k < kHeld; ++k)
        held[k] += scales[r] * at(rows + r * stride + i + k * kWide);
    }
#pragma GCC unroll 4
    for (size_t k = 0; k < kHeld; ++k) at(to + i + k * kWide) = held[k];
  }
  for (; i < count; ++i) {
    float held = to[i];
    for (size_t r = 0; r < rank; ++r) held += scales[r] * rows[r * stride + i];
    to[i] = held;
  }
}

constexpr VectorKernels kKernels = {BlockKernels::Isa::HORA_ISA, add_products, add_rows};
[[maybe_unused]] const bool kRegistered = register_kernels(&kKernels);

}  // namespace
}  // namespace hora::HORA_ISA
