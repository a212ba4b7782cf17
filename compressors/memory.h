#pragma once

#include <cstddef>

#include "compressors/codec.h"

namespace hora {

/// What a chain keeps between steps, as its memory stage says.
struct Memory {
  bool feedback = false;  ///< p = input_scale g + decay e, and e' = p - decode(encode(p))
  bool declined = false;  ///< `noef`: a biased chain stays without
  float decay = 1;
  bool global = false;        ///< e' = p - what all ranks' mean decodes to; linear chains only
  bool update_units = false;  ///< e is in units of updates: rescaled when the learning rate changes

  bool conserves() const { return feedback && decay == 1; }
  std::vector<SlabSpec> slabs(size_t count) const {
    if (!feedback) return {};
    return {{"residual", count, Law::kPending}};
  }
};

/// The numbers that a codec encodes, as functions of the gradient and the memory: element i of a
/// piece is input_scale input[i] + residual_scale residual[i].
struct Source {
  const float* input = nullptr;
  float* residual = nullptr;  ///< null: no memory
  float input_scale = 1, residual_scale = 0;

  float operator[](size_t i) const {
    const float p = input_scale * input[i];
    return residual ? p + residual_scale * residual[i] : p;
  }
};

/// What `memory` makes of a turn: how much of the gradient, how much of what is owed.
Source source_of(const Turn& turn, const Piece& piece, State& state, const Memory& memory);

/// A NaN or an Inf among `count` elements.
bool poisoned(const Source& source, size_t count);

/// Writes `count` elements to `to`, which may be the source's own residual.
void read(const Source& source, size_t count, float* to);

}  // namespace hora
