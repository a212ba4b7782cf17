#pragma once

#include <cstddef>
#include <cstdint>

#include "compressors/memory.h"

namespace hora {

/// Chooses the `most` largest magnitudes of `count`, ties to the lower offset, but none whose bits
/// (magnitude_bits) are below `floor`. Writes the offsets, ascending, to `chosen` and says how
/// many; Selector::kPoisoned for a NaN or an Inf. The result is exact, whatever it sampled on the
/// way.
size_t choose_largest(Workspace& workspace, const Source& source, size_t count, size_t most,
                      uint32_t floor, uint32_t* chosen);

/// What scan() saw.
struct Scanned {
  size_t found = 0;
  bool poisoned = false;  ///< a NaN or an Inf, anywhere
  bool overflow = false;  ///< more than there was room for
};

/// Writes the offsets of all elements whose magnitude's bits are at least `floor`, ascending.
/// `found` has kScanSlack elements more than `room`.
constexpr size_t kScanSlack = 64;
Scanned scan(const Source& source, size_t count, uint32_t floor, uint32_t* found, size_t room);

}  // namespace hora
