#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "compressors/chain.h"
#include "compressors/codec.h"
#include "compressors/stripes.h"
#include "ops/backend.h"
#include "ops/lane.h"

namespace hora {

/// One tensor of a bucket, or a run of its elements: where its gradient lies, where the result
/// goes, and its two memories.
struct Slot {
  const Codec* codec = nullptr;      ///< null for kDense
  const Codec* down = nullptr;       ///< of second encodings; null: the same
  const std::byte* input = nullptr;  ///< `count` elements
  std::byte* result = nullptr;       ///< may be the input
  DType dtype = DType::kFloat32;  ///< of both; float16, bfloat16 or float32 where there is a codec
  uint64_t first = 0;             ///< in the tensor; a multiple of granule()
  size_t count = 0;
  State* mine = nullptr;         ///< may be null if the codec has no slabs
  State* owned = nullptr;        ///< kRecode: memory of second encodings, laid out as Stripes says
  StepContext step;              ///< of this tensor: tensors of one bucket may count differently
  std::string_view tensor = {};  ///< its name, for messages
  Shard shard = {};              ///< what the members share of the tensor; the slot lies within

  const Codec& second() const { return down ? *down : *codec; }
  size_t granule() const { return granule_of(*codec, down); }
};

/// What a bucket computes, over all its slots.
struct Combine {
  ReduceOp op = ReduceOp::kAverage;  ///< kSum or kAverage; kDense takes every ReduceOp
  double prescale = 1, postscale = 1;
  std::span<const int> degrees = {};  ///< kMerge: those wanted of its butterfly (merging.h)
  uint64_t* sent = nullptr;           ///< grows by the bytes of compressed values that go to others
};

/// Sums or averages every slot over the communicator's members: one exchange (or one for each
/// round) for the whole bucket. Written once for every codec. Payloads are decoded in rank order
/// and everybody uses the decoded result, so all ranks hold the same bits, whatever the backend,
/// the bucket or the split of tensors.
///
/// Where a codec of the bucket `varies`, payloads are as long as they need to be, and an exchange
/// of their lengths goes before that of the payloads, on the way to owners and on the way back.
/// kCorrupt names a rank that announces more than its payloads could take, or sends more than they
/// do.
///
/// Transactional: if the ticket ends with an error, what this rank had put into messages is back in
/// its memories and the results are undefined. Where a rank's NaN or Inf made a block of the result
/// NaN, the other ranks' contributions to that block go back into their memories.
/// A vote's outcome is the result whether sums or means are asked for, times the postscale.
/// kInvalidArgument: a codec has judged (Codec::judge), and every rank gets the same error.
///
/// Everything borrowed, `slots` too, must outlive the ticket. Tags are
/// Tag::of(sequence, 0..). Uses the lane's scratch slots from kAggregateScratch on; allocates
/// nothing once those have grown. Gives way to control (Lane::pause) every half MiB of gradient,
/// but not within one slot of a sparse codec.
Ticket aggregate(Lane& lane, Communicator& communicator, uint64_t sequence, Aggregation how,
                 std::span<const Slot> slots, Combine combine);

/// The same for `link=inter`: each host adds up its members' values as they are, columns aggregate
/// the hosts' sums in the place of gradients (for a mean: times hosts / members, so that they are
/// as large as one), each its shard of every tensor (shard_of), and results spread inside hosts
/// again. So to the codec hosts are ranks, and slots have `mine`, `owned` and `step` of a host; the
/// memories are those of this member's shard. Members of one host only exchange values. With one
/// member for each host it is aggregate().
///
/// Transactional as that is, from when the hosts' sums are known: an exchange that fails before
/// leaves the memories as they were. A NaN poisons its host's sum.
Ticket aggregate_between_hosts(Lane& lane, Communicator& communicator, uint64_t sequence,
                               Aggregation how, std::span<const Slot> slots, Combine combine);

/// Of such a slot, what this member takes part in between hosts; an empty one if nothing.
Slot between_hosts(const Slot& slot, const Layers& layers);

constexpr size_t kAggregateScratch = 32;

/// Bytes that a rank sends to others for such a bucket, averaged over ranks; where sizes vary, the
/// most that it may be.
uint64_t wire_bytes(Aggregation how, std::span<const Slot> slots, int size,
                    std::span<const int> degrees = {});

}  // namespace hora
