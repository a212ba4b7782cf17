#pragma once

#include <string>
#include <string_view>

#include "launcher/waits.h"

namespace hora {

/// What to do about an error that all ranks got because they disagree, by what its text names.
std::string_view advice_on_mismatch(std::string_view error);

/// What to do about two sets of ranks that wait for each other.
std::string advice_on_circle(const Records& records, const Wait& a, const Wait& b);

/// What to do about ranks that wait for others. Empty if these died or raised an exception, which
/// is told by itself.
std::string advice_on_wait(const Records& records, const Wait& wait);

}  // namespace hora
