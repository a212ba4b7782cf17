#pragma once

#include <memory>
#include <vector>

#include "ops/backend.h"

namespace hora::hierarchical {

/// Two backends as one: `inside` reaches the ranks of this host (shm), `across` all ranks (tcp,
/// gloo). `hosts[r]` is the host of rank r.
///
/// An allreduce is reduced and scattered inside the host, each shard reduced between hosts, and
/// gathered inside again, in chunks, so that both links work at once. So each byte crosses between
/// hosts once for the host, not once for each of its ranks. Broadcast and barrier go through one
/// rank of each host. What cannot be composed with the same result (an average or scale of
/// integers), and every other operation, goes flat over `across`.
///
/// The order of a sum is by host, then by rank within the host: all ranks have the same bits, but
/// not those of a flat backend; 16-bit floats are rounded once in each host and once more.
std::unique_ptr<Backend> open(std::unique_ptr<Backend> inside, std::unique_ptr<Backend> across,
                              std::vector<int> hosts, Rank rank);

}  // namespace hora::hierarchical
