#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"
#include "ops/auto_chain.h"

namespace hora {

/// How fast a chain's codec is on tensors of some size.
using SpeedOf = std::function<CodecSpeed(const ChainConfig&)>;

/// What a compression setting does to a model, tensor by tensor: chain, aggregation, bytes that a
/// rank sends in a step and how many times less than float32 that is, the codec's memory, the
/// predicted time, and what the chain promises; with link=inter, bytes inside hosts and between
/// them. For `auto`, the table of decisions first. `model` is JSON: {"layer.weight": [256, 128],
/// ...}. Errors: kInvalidArgument for a setting or a model that cannot be read.
Result<std::string> compression_page(std::string_view setting, const std::string& model,
                                     const AutoJob& job, const SpeedOf& speed_of);

/// `hora compress`; the exit code.
int compress_main(std::vector<std::string> arguments);

}  // namespace hora
