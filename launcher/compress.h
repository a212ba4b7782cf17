#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"

namespace hora {

/// What a compression setting does to a model, tensor by tensor: chain, aggregation, bytes that a
/// rank sends in a step and how many times less than float32 that is, the codec's memory, and what
/// the chain promises. `model` is JSON: {"layer.weight": [256, 128], ...}. Errors: kInvalidArgument
/// for a setting or a model that cannot be read.
Result<std::string> compression_page(std::string_view setting, const std::string& model, int ranks);

/// `hora compress`; the exit code.
int compress_main(std::vector<std::string> arguments);

}  // namespace hora
