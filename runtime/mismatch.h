#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/wire.h"

namespace hora {

/// What every rank is told when members announced different things under one name: only the fields
/// that differ, with who has what. `members` is how many ranks announced; those that the variants
/// do not cover are counted.
///
///   'grad.w': ranks disagree: rank 0 and 2 more have shape [2]; rank 3 has shape [9]
std::string mismatch_text(std::string_view name, std::span<const Variant> variants, size_t members);

std::string to_string(const Shape& shape);  ///< "[2, 3]"

}  // namespace hora
