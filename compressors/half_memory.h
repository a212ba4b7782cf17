#pragma once

#include <memory>

#include "compressors/codec.h"

namespace hora {

/// The same codec, whose slab "residual" is kept in bfloat16: half the memory. For each call the
/// piece's part is widened, and rounded at random afterwards (up as often as what would be cut off
/// is large), because rounding to the nearest would drop every small gradient that is added to a
/// large residual. Sums are kept on average only, so no law of conservation is promised.
std::unique_ptr<Codec> keep_halves(std::unique_ptr<Codec> inner);

}  // namespace hora
