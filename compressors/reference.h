#pragma once

#include <string>

namespace hora {

/// docs/compressors.md: the grammar, and every registered preset, stage, key and quantizer.
std::string compressors_markdown();

}  // namespace hora
