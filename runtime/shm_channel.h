#pragma once

#include <memory>

#include "ops/shm/neighborhood.h"
#include "runtime/control_channel.h"

namespace hora {

/// Control frames over the rings of a shared-memory neighborhood.
std::unique_ptr<ControlChannel> open_shm_channel(std::shared_ptr<shm::Neighborhood> neighborhood);

}  // namespace hora
