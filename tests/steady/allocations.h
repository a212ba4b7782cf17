#pragma once

#include <cstdint>

namespace hora {

/// How often this program has called operator new so far: linked in, this counts.
uint64_t allocations();

}  // namespace hora
