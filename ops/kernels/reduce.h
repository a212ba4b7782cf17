#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "ops/backend.h"

namespace hora {

/// Combines `inputs` (one pointer for each rank, in rank order, `count` elements each) as Reduction
/// says and writes the result to every pointer of `outputs`. An output may be one of the inputs
/// (the same address); otherwise they do not overlap. Alignment: that of the element type.
///
/// Beyond Reduction: a float result that is NaN has the canonical bits (positive, quiet, no
/// payload). min and max give NaN if any value is NaN, and take -0 for less than +0. `prescale` is
/// one factor; `postscale` and the average's 1/n are one. A scaled integer that does not fit
/// becomes the nearest that does, NaN 0. bool ignores scales; any byte but 0 is true, the result is
/// 0 or 1.
///
/// `streaming`: the outputs will not be read soon; bypass the cache where that pays.
/// Equal bits for every instruction set and any split of the range. Threads: any.
void reduce(const Reduction& reduction, std::span<const std::byte* const> inputs,
            std::span<std::byte* const> outputs, size_t count, bool streaming = false);

/// Chooses the instruction set for this process: "auto", "base", "avx2", "avx512". Call before the
/// first use; false if this machine does not have it.
bool choose_isa(std::string_view name);
std::string_view chosen_isa();

}  // namespace hora
