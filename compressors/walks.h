#pragma once

#include "compressors/blocks_jobs.h"

namespace hora {

/// The numbers that a codec encodes, as functions of the gradient and the memory: element i of a
/// piece is input_scale input[i] + residual_scale residual[i].
struct Source {
  const float* input = nullptr;
  float* residual = nullptr;  ///< null: no memory
  float input_scale = 1, residual_scale = 0;

  HORA_HD float operator[](size_t i) const {
    const float p = input_scale * input[i];
    return residual ? p + residual_scale * residual[i] : p;
  }
  /// The numbers from element `begin` on.
  Source from(size_t begin) const {
    return {input + begin, residual ? residual + begin : nullptr, input_scale, residual_scale};
  }
  /// The numbers of the residual alone, once they are in it.
  static Source settled(float* residual) { return {residual, residual, 0.0f, 1.0f}; }
  bool is_settled() const { return input == residual; }
};

/// What a scan saw.
struct Scanned {
  size_t found = 0;
  size_t above = 0, below = 0;  ///< numbers that are more, and less, than zero
  bool poisoned = false;        ///< a NaN or an Inf, anywhere
  bool overflow = false;        ///< more than there was room for
};

struct ScanJob {
  Source source;
  size_t count;
  uint32_t floors[2];  ///< the least magnitude_bits() to be found, without and with a sign
  uint32_t* found;     ///< receives offsets, ascending
  float* numbers;      ///< the numbers there; both have kScanSlack elements more than `room`
  size_t room;
  bool settle;  ///< write the numbers to the residual
};
constexpr size_t kScanSlack = 64;

struct MomentumJob {
  const float* input;
  float *velocity, *residual;
  size_t count;
  float input_scale, momentum;
  bool nesterov;
};

/// Walks over a whole piece on one instruction set; all give the same bytes.
struct WalkKernels {
  BlockKernels::Isa isa;
  /// The bits of the largest magnitude; of a NaN or an Inf if there is one.
  uint32_t (*peak)(const Source& source, size_t count);
  /// Writes the numbers to `to`, which may be the source's own residual; says their peak.
  uint32_t (*read)(const Source& source, size_t count, float* to);
  Scanned (*scan)(const ScanJob& job);
  /// What a step adds to a residual, at most: the bits of its magnitude.
  uint32_t (*momentum_peak)(const MomentumJob& job);
  void (*momentum)(const MomentumJob& job);
  /// The sum of the squares of scale x[i]: sixteen sums side by side, joined in pairs.
  double (*squares)(const float* x, size_t count, float scale);
  /// Writes scale x[i], but at least -limit and at most limit.
  void (*clamp)(const float* x, size_t count, float scale, float limit, float* to);
  /// As bfloat16, rounded at random; element i draws as element `first` + i of its tensor.
  void (*round_halves)(const float* from, size_t count, Key key, uint64_t first, uint16_t* to);
};

/// As register_kernels(const BlockKernels*).
bool register_kernels(const WalkKernels* kernels);

/// Those for this machine, or for the instruction set that was chosen.
const WalkKernels& host_walks();

}  // namespace hora
