#pragma once

#include <cstdint>
#include <memory>

#include "ops/backend.h"
#include "ops/bell.h"

/// A test backend with the shape of a GPU: tickets complete later, from another thread, in any
/// order across lanes.
namespace hora::delayed {

/// Runs the operations of `inner` on a worker thread for each communicator. The worker lets a
/// number of turns pass before and after every operation, drawn from `seed`, and rings `bell` at
/// the end.
///
/// An operation that is aborted ends when its inner one has: its memory is free then.
/// Threads: as for any backend. `inner` is called from the workers; its communicators of one lane
/// never at the same time.
std::unique_ptr<Backend> wrap(std::unique_ptr<Backend> inner, uint64_t seed, Bell bell = {});

}  // namespace hora::delayed
