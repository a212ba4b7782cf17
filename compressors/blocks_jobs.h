#pragma once

#include "compressors/element.h"

namespace hora {

constexpr uint32_t kLanes = 32;

/// What the memory adds to the input: nothing, or the residual.
enum class Mode : uint8_t { kPlain, kFeedback };

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
  float parameter = 1;  ///< what `quant:scale=` says; see the quantizer's fit()
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
  bool votes = false;  ///< the scale is `quant:scale=`, whatever the block: codes are ballots
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

/// Rows of lanes in one strip, and its bytes for each lane. A width that divides 8 fills a byte
/// from several rows; 3, 5, 6 and 7 bits take one byte of each of their bits from 8 rows; 16 take a
/// row.
HORA_HD constexpr uint32_t strip_rows(int bits) {
  return bits == 16 ? 1 : 8 % bits == 0 ? 8 / static_cast<uint32_t>(bits) : 8;
}
HORA_HD constexpr uint32_t strip_bytes(int bits) {
  return bits == 16 ? 2 : 8 % bits == 0 ? 1 : static_cast<uint32_t>(bits);
}

/// Bytes of codes for a block of `count` elements.
HORA_HD uint64_t code_bytes(int bits, uint64_t count) {
  const uint64_t rows = (count + kLanes - 1) / kLanes, strip = strip_rows(bits);
  return (rows + strip - 1) / strip * strip_bytes(bits) * kLanes;
}

}  // namespace hora
