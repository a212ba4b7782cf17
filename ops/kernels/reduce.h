#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "ops/backend.h"

namespace hora {

/// Combines `inputs` (one pointer for each rank, in rank order, `count` elements each) as Reduction
/// says and writes the result to every pointer of `outputs`. An output may be one of the inputs (the
/// same address); otherwise they do not overlap. Alignment: that of the element type.
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
