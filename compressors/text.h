#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"

namespace hora {

/// Pieces of the settings' parsers (chain.h, rules.h).

/// A part of a text and where it begins in the whole.
struct Fragment {
  std::string_view text;
  size_t at = 0;
};

/// Splits at every `separator`, keeping empty parts: an empty text is one empty part.
std::vector<Fragment> split(Fragment whole, char separator);

/// "compression, character 4: ..." with `at` counted from 0.
Status text_error(size_t at, std::string_view message);

/// "; did you mean 'topk'?", or nothing when no candidate is near.
std::string did_you_mean(std::string_view wrong, const std::vector<std::string_view>& candidates);

/// 1% is 0.01, 32k is 32768, 1M is 1048576; every number in its shortest form; other text as it is.
std::string normal_value(std::string_view value);

}  // namespace hora
