#pragma once

#include "compressors/blocks_jobs.h"

namespace hora {

/// Random signs and an orthonormal Walsh-Hadamard transform of a block, on one instruction set; all
/// give the same bytes. `width` is a power of two of at least 32, the block has `n` elements and
/// zeros behind them. Element i's sign is drawn by `key` and `index` + i.
struct RotateKernels {
  BlockKernels::Isa isa;
  /// Signs, then the transform; in place.
  void (*forward)(float* x, size_t n, size_t width, Key key, uint32_t index);
  /// The transform, which is its own inverse, then the signs.
  void (*back)(float* x, size_t n, size_t width, Key key, uint32_t index);
};

/// As register_kernels(const BlockKernels*).
bool register_kernels(const RotateKernels* kernels);

/// The one for this machine, or for the instruction set that was chosen.
const RotateKernels& host_rotation();

}  // namespace hora
