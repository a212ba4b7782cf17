#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/tensor.h"

namespace hora {

using Rank = int32_t;
using SetId = uint32_t;   ///< a process set; 0 is the world; never reused within an epoch
using Handle = uint64_t;  ///< names one submitted request until it is waited for; 0 is none

enum class Op : uint8_t {
  kAllreduce,
  kReduceScatter,
  kAllgather,
  kAlltoall,
  kBroadcast,
  kBarrier,
  kAddSet,
  kRemoveSet,
  kJoin,
};
/// The numbers are on the wire and in the C ABI; append only.
enum class ReduceOp : uint8_t { kSum, kAverage, kMin, kMax, kProduct, kAdasum };

std::string_view name_of(Op op);            ///< "allreduce"
std::string_view name_of(ReduceOp reduce);  ///< "sum"

/// One operation on one tensor, or on a group that runs as a whole. Ranks pair requests by
/// (set, name, round), in whatever order they arrive.
///
/// Ownership: the tensors are borrowed from submit() until completion; nobody else may touch them
/// in between. `outputs[i].data` null: the engine allocates the result; fetch it by take_output().
struct Request {
  std::string name;  ///< empty: one is made from the operation and a counter
  Op op = Op::kAllreduce;
  ReduceOp reduce = ReduceOp::kAverage;
  SetId set = 0;
  std::vector<Tensor> inputs;   ///< several: an atomic group, one name and one outcome
  std::vector<Tensor> outputs;  ///< parallel to inputs; may be the inputs' memory (in place)
  Rank root = 0;                ///< broadcast: the source, a rank of the world; remove_set: the set
  double prescale = 1, postscale = 1;  ///< on every input before, on the result after reducing
  std::vector<int64_t> splits;         ///< alltoall: rows for each member; empty: equal parts
  std::vector<Rank> members;           ///< add_set: its ranks, ascending

  std::string chain;  ///< compression config; empty: the job's setting; "none": values as they are
  int16_t priority = 0;  ///< higher goes first
  uint16_t domain =
      0;  ///< 0: runs at once; else the optimizer whose gradients wait for their bucket
  uint64_t round = 0;  ///< identity is (name, round); 0: the engine counts
  uint64_t step = 0;   ///< the optimizer's step, for schedules and timelines
  float lr = 0;        ///< learning rate in force; 0: unknown
  bool empty = false;  ///< takes part in this round with nothing to say (zeros)
  uint32_t epoch = 0;  ///< membership the caller believes in; 0: any
};

}  // namespace hora
