#pragma once

#include <span>

#include "ops/aggregate_job.h"

namespace hora::aggregation {

/// Adds up a bucket of sparse payloads on the way: a butterfly of alltoalls, after which every rank
/// owns the sums of its share of all elements, then an allgather of these (compressors/merging.h
/// says who owns what, and how many entries travel).
///
/// What a message has no room for, the smallest magnitudes, goes into the memory "residual" of the
/// rank that could not send it, whoever's gradient it was; a chain without memory loses it.
/// Memories are settled when all has arrived. Where the sum of anything is not finite the tensor,
/// or the run of it, is NaN everywhere and all contributions go back. `job.out` has this rank's
/// payloads, for an exchange that fails.
Ticket merge(Job& job);

/// Bytes that a rank sends for such a bucket.
uint64_t merged_bytes(std::span<const Slot> slots, int size, std::span<const int> degrees);

}  // namespace hora::aggregation
