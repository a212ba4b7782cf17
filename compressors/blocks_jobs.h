#pragma once

#include "compressors/element.h"

namespace hora {

constexpr uint32_t kLanes = 32;

/// What the memory adds to the input: nothing, the residual, or it already holds the sum itself.
enum class Mode : uint8_t { kPlain, kFeedback, kHeld };

struct EncodeJob {
  const float* input;
  float* residual;  ///< null when mode is kPlain
  float* scales;
  uint8_t* codes;
  uint64_t first, count;  ///< in the tensor's coordinates; first is a multiple of bucket
  uint32_t bucket;
  float input_scale, residual_scale;  ///< prescale or clip; decay or learning-rate ratio
  Key key;
  Mode mode;
};

struct DecodeJob {
  const float* scales;
  const uint8_t* codes;
  float* sum;
  uint64_t count;
  uint32_t bucket;
  float scale;
  bool overwrite;
};

/// What a quantizer promises; codec.h says what the words mean, and the conformance suite tests
/// them.
struct Promises {
  bool linear = false, unbiased = false, contractive = false;
};

/// One quantizer on one instruction set. A device's `encode` queues on `stream` and returns.
struct BlockKernels {
  /// warp: cuda's steps, on the host, for tests.
  enum class Isa : uint8_t { base, avx2, avx512, cuda, warp };
  const char* family;  ///< what `quant:recon=` calls it
  Isa isa;
  int bits, scales;
  bool random;  ///< rounds at random
  Promises promises;
  void (*encode)(const EncodeJob&, void* stream);
  void (*decode)(const DecodeJob&, void* stream);
};

/// Called before main() by the file that defines a quantizer, once for each instruction set. By
/// pointer: a record copied by code compiled for AVX-512 would stop a machine that has none.
bool register_kernels(const BlockKernels* kernels);

template <class Q>
constexpr BlockKernels kernels_of(const char* family, BlockKernels::Isa isa,
                                  void (*encode)(const EncodeJob&, void*),
                                  void (*decode)(const DecodeJob&, void*)) {
  return {family, isa, Q::kBits, Q::kScales, Q::kRandom, Q::kPromises, encode, decode};
}

/// Bytes of codes for a block of `count` elements.
HORA_HD uint64_t code_bytes(int bits, uint64_t count) {
  const uint64_t rows = (count + kLanes - 1) / kLanes;
  return bits == 16 ? rows * 64 : (rows * static_cast<uint64_t>(bits) + 7) / 8 * kLanes;
}

}  // namespace hora
