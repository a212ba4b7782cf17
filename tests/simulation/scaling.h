#pragma once

#include <cstdint>
#include <vector>

#include "runtime/vocabulary.h"

namespace hora {

/// A job of one optimizer whose ranks are all ready in the same moment.
struct ScalingCase {
  int ranks = 1000, per_host = 8;
  int arity = 8;      ///< of the tree between hosts
  bool star = false;  ///< every rank talks to rank 0, as in Horovod
  int tensors = 1000;
  uint64_t tensor_bytes = 10'000;
};

/// What the network and a rank's engine take, in nanoseconds: between hosts and inside of one.
struct NetworkModel {
  Time hop = 10'000, local_hop = 1'000;  ///< from the end of sending to the begin of receiving
  Time cost = 5'000, local_cost = 300;   ///< of a frame at its sender and again at its receiver
};

/// What one step of training cost.
struct StepCost {
  uint64_t buckets = 0;
  uint64_t frames_in = 0, frames_out = 0;  ///< at the rank that handled most
  uint64_t bytes_most = 0;                 ///< sent by one rank
  double frames_mean = 0, bytes_mean = 0;  ///< sent by each
  Time agreed = 0;                         ///< until the last rank knew the last bucket
};

struct ScalingResult {
  StepCost first;       ///< all names are new
  StepCost steady;      ///< buckets known, all tensors submitted in one engine step
  StepCost one_by_one;  ///< buckets known, an engine step for each tensor
  uint64_t engine_steps = 0;
  bool agreed = true;  ///< all ranks were told the same plans
};

/// Runs a Negotiator for every rank, in virtual time: eight steps or so until the last.
ScalingResult simulate_scaling(const ScalingCase& scaling, const NetworkModel& network);

/// The same clockwork without negotiators, for more ranks than fit in memory: `frames` go up each
/// edge and down again, and a rank passes one on when all below it have sent theirs. Fills frames
/// and times, not bytes.
StepCost model_scaling(const ScalingCase& scaling, const NetworkModel& network, int frames);

}  // namespace hora
