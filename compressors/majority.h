#pragma once

#include <cstddef>

namespace hora {

/// Bit by bit, what most of `voters` ballots of `bytes` bytes say; they lie `stride` bytes apart. A
/// tie elects the one. Ballots are counted 64 bits at a time, as they came: nothing is decoded.
void elect(const std::byte* ballots, size_t stride, size_t voters, size_t bytes, std::byte* winner);

}  // namespace hora
