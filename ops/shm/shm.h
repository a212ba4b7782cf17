#pragma once

#include <memory>

#include "ops/backend.h"
#include "ops/shm/neighborhood.h"

namespace hora::shm {

/// Collectives among the ranks of one host. Its arena is memory that peers reach in place: an
/// allreduce of segments that lie there on all members moves each byte once.
std::unique_ptr<Backend> open(std::shared_ptr<Neighborhood> neighborhood);

/// Does this machine have memory files and process descriptors?
bool available();

}  // namespace hora::shm
