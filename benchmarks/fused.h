#pragma once

#include <cstddef>
#include <span>

namespace hora::benchmarks {

/// What somebody would write who needed one quantizer only, with error feedback, for blocks of 512
/// and AVX-512: a codec's payload and residual to the byte.
struct FusedLoop {
  const char* chain;
  /// `count` is a multiple of 512.
  void (*encode)(const float* gradient, float* residual, size_t count, std::byte* payload);
};

/// None where compiler or machine have no AVX-512.
std::span<const FusedLoop> fused_loops();

}  // namespace hora::benchmarks
