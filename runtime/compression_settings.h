#pragma once

#include <string_view>

#include "hora/config.h"
#include "hora/status.h"

namespace hora {

inline constexpr std::string_view kMeasureSpeeds = "measure";  ///< HORA_CODEC_SPEEDS

/// Can HORA_COMPRESSION and HORA_CODEC_SPEEDS be parsed? Errors: kInvalidArgument names the
/// setting, the character, what is wrong and what was probably meant.
Status check_compression(const Config& config);

/// The same for somebody who does not know which stages the program will add: a setting with a name
/// that may be one of theirs is left to the ranks.
Status check_compression_before_start(const Config& config);

}  // namespace hora
