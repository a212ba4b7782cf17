#pragma once

// What an element function may use: plain arithmetic that gives the same bits on every host and on
// CUDA. No <cmath>, no std templates: a file compiled for AVX-512 must not emit a shared inline
// function that the linker could hand to a machine without AVX-512.

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define HORA_HD __host__ __device__ __forceinline__
#define HORA_UNROLL _Pragma("unroll")
#else
#define HORA_UNROLL _Pragma("GCC unroll 8")
#define HORA_HD inline __attribute__((always_inline))
#endif

namespace hora {

HORA_HD uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

HORA_HD float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

HORA_HD uint32_t magnitude_bits(float value) {
  return bits_of(value) & 0x7FFFFFFFu;
}
HORA_HD bool is_finite(float value) {
  return magnitude_bits(value) < 0x7F800000u;
}

/// The lesser of both.
HORA_HD int32_t least(int32_t a, int32_t b) {
  return a < b ? a : b;
}

/// Stands for "this block held a NaN or an Inf": decodes to NaN. Every other non-finite is refused.
constexpr uint32_t kPoison = 0x7FC0DEADu;

/// Names a stream of random numbers: seed, step, tensor and who draws. The element's index in its
/// TENSOR completes it, so neither buckets, chunks, threads nor the device can change a draw.
struct Key {
  uint32_t a = 0, b = 0;
};

HORA_HD Key make_key(uint64_t seed, uint64_t step, uint64_t tensor, uint64_t drawer) {
  uint64_t x = seed;
  const uint64_t words[3] = {step, tensor, drawer};
  for (uint64_t word : words) {
    x = (x ^ word) + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
  }
  return {static_cast<uint32_t>(x), static_cast<uint32_t>(x >> 32)};
}

/// 32 random bits for one element. The second half of the key enters mid-way; two keys whose first
/// halves are close would otherwise draw shifted copies of one stream.
HORA_HD uint32_t random_bits(Key key, uint32_t index) {
  uint32_t x = index + key.a;
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15) ^ key.b) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

HORA_HD float unit_interval(uint32_t random) {
  return static_cast<float>(static_cast<int32_t>(random >> 8)) * 0x1p-24f;
}

/// The key of the 2^32 elements around `first`; inside them 32-bit indices are enough.
HORA_HD Key key_at(Key key, uint64_t first) {
  return {key.a, key.b ^ static_cast<uint32_t>(first >> 32) * 0x9E3779B1u};
}

}  // namespace hora
