#pragma once

#include <cstddef>

#include "compressors/codec.h"
#include "compressors/walks.h"

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

/// What `memory` makes of a turn: how much of the gradient, how much of what is owed.
Source source_of(const Turn& turn, const Piece& piece, State& state, const Memory& memory);

/// A NaN or an Inf among `count` elements.
bool poisoned(const Source& source, size_t count);

/// Writes `count` elements to `to`, which may be the source's own residual.
void read(const Source& source, size_t count, float* to);

/// Whether a number of such a magnitude (its bits) makes no finite number infinite when it is
/// added.
bool adds_safely(uint32_t magnitude);

/// Whether a look at the gradient alone tells that the numbers are finite where the residual is. If
/// so they may be written to the residual on the first way through them.
bool surely_finite(const Source& source, size_t count);

/// Writes the numbers to the residual, if there is one, and makes it the source. False: a NaN or an
/// Inf is among them, and what was owed is as it was.
bool settle(Source& source, size_t count);

}  // namespace hora
