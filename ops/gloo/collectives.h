#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hora/status.h"
#include "ops/backend.h"
#include "ops/gloo/mesh.h"

namespace hora::gloo {

/// The collectives, over a mesh's messages. Gloo's own algorithms reduce pairwise: a ring rounds
/// bfloat16 once per member, and adds in an order that depends on the element's place. These reduce
/// every element once, at its owner, from all members' values in rank order, so a result is what
/// Reduction defines and does not depend on sizes; and an abort can reach every message of ours.
///
/// All block; `slot` is a number that no operation of this mesh has used. On an error messages stay
/// in flight: close() and clear() the mesh. Every range is in elements of the reduction's type or,
/// where there is none, in bytes.

/// Scratch that allreduce() and reduce_scatter() need.
size_t allreduce_scratch(int members, size_t count, DType dtype);
size_t reduce_scatter_scratch(int members, size_t own_count, DType dtype);

/// In place over `count` elements. Small ones: every member sends all to all and reduces alone, one
/// message deep. Others: chunks to their owners, reduced as they come, results back.
Status allreduce(Mesh& mesh, uint64_t slot, std::byte* data, size_t count,
                 const Reduction& reduction, std::span<std::byte> scratch);

Status reduce_scatter(Mesh& mesh, uint64_t slot, const std::byte* input, std::byte* output,
                      std::span<const size_t> counts, const Reduction& reduction,
                      std::span<std::byte> scratch);

Status allgather(Mesh& mesh, uint64_t slot, const std::byte* input, std::byte* output,
                 std::span<const size_t> bytes);

Status alltoall(Mesh& mesh, uint64_t slot, const std::byte* input, std::span<const size_t> send,
                std::byte* output, std::span<const size_t> receive);

/// Down a binomial tree, in chunks.
Status broadcast(Mesh& mesh, uint64_t slot, std::byte* data, size_t bytes, int root);

/// Dissemination: in round k every member hears from the one 2^k before it.
Status barrier(Mesh& mesh, uint64_t slot);

}  // namespace hora::gloo
