#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/config.h"
#include "hora/status.h"
#include "runtime/clock.h"
#include "runtime/store.h"

namespace hora {

/// What a rank tells all others of itself when they meet.
struct Introduction {
  std::string host;  ///< a name to show
  int32_t pid = 0;
  std::string machine;    ///< equal for ranks that can share memory, as far as one can see
  std::string addresses;  ///< where ranks of other hosts reach it; empty: nowhere
  std::string speeds;     ///< of its codecs, for `auto` (ops/auto_chain.h); empty: does not matter
  std::string choices;    ///< rank 0's: of `auto` when it last met others (ops/auto_choices.h)
};

std::string host_name();

/// Leaves this rank's introduction in the store, under `prefix` and its number, and waits for
/// everybody's, which come back by rank. `mine` needs addresses, speeds and choices.
///
/// Errors: kTimeout names the ranks that did not come; kMismatch the setting that must be equal and
/// is not, and both values.
Result<std::vector<Introduction>> introduce(Store& store, const Config& config,
                                            const std::string& prefix, const Clock& clock,
                                            const Introduction& mine);

/// The host of each rank, numbered in the order of their lowest ranks.
std::vector<int> hosts_of(const std::vector<Introduction>& ranks);

}  // namespace hora
