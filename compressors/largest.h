#pragma once

#include <cstddef>
#include <cstdint>

#include "compressors/memory.h"

namespace hora {

/// Chooses the `most` largest magnitudes of `count`, ties to the lower offset, but none whose bits
/// (magnitude_bits) are below `floor`. Writes the offsets, ascending, to `chosen` and says how
/// many; Selector::kPoisoned for a NaN or an Inf. The result is exact, whatever it sampled on the
/// way.
///
/// Where it may, it writes the numbers to the residual on its way, which is the source from then
/// on.
size_t choose_largest(Workspace& workspace, Source& source, size_t count, size_t most,
                      uint32_t floor, uint32_t* chosen);

}  // namespace hora
