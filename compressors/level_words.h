#pragma once

#include "compressors/blocks_jobs.h"

namespace hora {

/// Where sums of codes lie. Rows of 32 elements fill words lane beside lane: of `fields` rows that
/// follow each other, each has `width` bits of the same 32 words.
struct WordLayout {
  uint32_t width, fields;
};

/// A block of one scale, or what of it a piece has.
struct LevelBlock {
  size_t row, count;  ///< its first row, counted from the words' first; elements
  WordLayout layout;
  float step;    ///< elements are multiples of it
  int32_t side;  ///< levels on either side of zero
};

/// What a rank says of a block: codes from 0 to 2 side.
struct LevelJob {
  LevelBlock block;
  const float* from;
  uint64_t first;        ///< element of the tensor
  float scale, inverse;  ///< multiplies elements; one over the step
  bool random;
  Key key;
};

/// Codes and their sums, on one instruction set; all give the same bytes.
struct LevelKernels {
  BlockKernels::Isa isa;
  /// Fills a block's fields, which are zeros.
  void (*write)(const LevelJob& job, uint64_t* words);
  /// Takes from the memory what write() says.
  void (*take)(const LevelJob& job, float* residual);
  /// to[i] += scale times what the words, a sum over `ranks`, say of the block's element i.
  void (*add)(const LevelBlock& block, const uint64_t* words, int ranks, float scale, float* to);
};

/// As register_kernels(const BlockKernels*).
bool register_kernels(const LevelKernels* kernels);

/// Those for this machine, or for the instruction set that was chosen.
const LevelKernels& host_levels();

}  // namespace hora
