#pragma once

#include <memory>
#include <vector>

#include "ops/backend.h"
#include "ops/cost_model.h"

namespace hora::hierarchical {

/// What the two layers cost, equal on all ranks.
struct Costs {
  LinkCost inside = kUsualInside;
  LinkCost given = kUsualAcross;     ///< the slowest between two hosts, as every run has it
  LinkCost measured = kUsualAcross;  ///< the same, as this run has found it; or as given
};

/// Two backends as one: `inside` reaches the ranks of this host (shm), `across` all ranks (tcp,
/// gloo). `hosts[r]` is the host of rank r.
///
/// Allreduce, reduce_scatter, allgather and broadcast are brought together or spread inside each
/// host and cross between hosts in shares of all its ranks, in chunks, so that both layers work at
/// once. So each byte crosses once for the host, not once for each of its ranks. A barrier goes
/// through one rank of each host. Flat over `across` goes every alltoall (docs/rationale.md says
/// why), what cannot be composed with the same result (an average or scale of integers), and of
/// the first three what the cost model finds quicker that way.
///
/// The order of a sum is by host, then by rank within the host: all ranks have the same bits, but
/// not those of a flat backend; 16-bit floats are rounded once in each host and once more. Whether
/// a sum has this order depends on the given costs alone: what is measured differs from run to run,
/// and bits must not.
std::unique_ptr<Backend> open(std::unique_ptr<Backend> inside, std::unique_ptr<Backend> across,
                              std::vector<int> hosts, Rank rank, const Costs& costs = {});

}  // namespace hora::hierarchical
