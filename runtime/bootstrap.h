#pragma once

#include <vector>

#include "hora/config.h"
#include "runtime/driver.h"
#include "runtime/store.h"

namespace hora {

/// Meets the other ranks of `config` through its store: compares settings that must be equal,
/// exchanges memory and descriptors, opens the backend. A world of one needs no store. `choices`
/// are what this rank's `auto` chose when it last met others.
///
/// Errors: kTimeout names the ranks that did not come; kMismatch the setting that differs and both
/// values; kUnavailable why the backend cannot be had.
Result<Transport> meet(const Config& config, const Clock& clock, const AutoChoices& choices);

/// `size` ranks as threads of this process.
std::vector<Transport> meet_locally(int size);

}  // namespace hora
