#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"
#include "ops/cost_model.h"

namespace hora {

/// A link as people write it: "10gbit", "1gbit,50us", "100mbit,20ms" (rate of each direction, and
/// one-way delay). Errors: kInvalidArgument shows what was expected.
Result<LinkCost> link_of(const std::string& text);

/// A table: for sizes from 4 bytes to `most`, each route's predicted time, the choice and why.
std::string plan_page(const Topology& topology, size_t most);

/// The same of compression: which chain `setting`, an `auto`, takes for which sizes, for speeds of
/// this core. Errors: kInvalidArgument for a setting that has no `auto`.
Result<std::string> compression_plan(std::string_view setting, const Topology& topology);

/// `hora plan`; the exit code.
int plan_main(std::vector<std::string> arguments);

}  // namespace hora
