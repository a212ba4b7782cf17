#pragma once

#include <span>
#include <string>
#include <string_view>

namespace hora {

/// What to say of a flag that horarun does not have: what it has instead of horovodrun's, or the
/// most similar of `known` ("--lanes"). A whole sentence without its end, beginning with the flag.
std::string flag_advice(std::string_view flag, std::span<const std::string> known);

}  // namespace hora
