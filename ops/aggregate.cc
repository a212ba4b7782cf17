#include "ops/aggregate.h"

#include <algorithm>
#include <cstring>

#include "ops/aggregate_job.h"
#include "ops/merge.h"

namespace hora {

using namespace aggregation;

namespace {

/// What this rank has encoded goes back into its memories. `striped` as when it was laid out.
void undo_encodings(Job& job, int striped) {
  job.begin_cursors();
  Walk walk(job.slots, striped);
  Chunk chunk;
  for (size_t i = 0; i < job.encoded && walk.next(chunk); ++i) {
    take_back(job, chunk, job.out + job.advance(chunk), nullptr);
  }
}

// Gather: everybody receives every payload and decodes them in rank order

Status gathered_result(Job& job, const Chunk& chunk, size_t at, size_t each,
                       std::span<float> result) {
  for (size_t r = 0; r < static_cast<size_t>(job.ranks()); ++r) {
    HORA_TRY(chunk.slot->codec->decode_add(job.turn(*chunk.slot),
                                           {job.all + r * each + at, chunk.bytes}, chunk.first,
                                           result, job.result_scale()));
  }
  return {};
}

Ticket gather(Job& job) {
  const auto ranks = static_cast<size_t>(job.ranks());
  const size_t each = lay_out(job, 0, 1);
  job.all = job.scratch(kAll, each * ranks);
  job.out = job.all + static_cast<size_t>(job.me()) * each;
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    encode(job, chunk, job.out + job.advance(chunk));
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  auto* bytes = reinterpret_cast<size_t*>(job.scratch(kOther, ranks * sizeof(size_t)));
  std::fill_n(bytes, ranks, each);
  HORA_CO_TRY(co_await job.communicator.allgather(job.lane, Tag::of(job.sequence, 0), job.out,
                                                  job.all, {bytes, ranks}));
  bool finite = true;
  job.begin_cursors();
  walk = Walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const std::span<float> result = begin_result(job, chunk);
    HORA_CO_TRY(gathered_result(job, chunk, job.advance(chunk), each, result));
    HORA_CO_TRY(judge(chunk, result));
    finite = end_result(chunk, result) && finite;
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  if (finite) co_return Status();
  // From here on nothing can fail: what the poisoned blocks did not use goes back.
  job.begin_cursors();
  walk = Walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const size_t at = job.advance(chunk);
    const std::span<float> result(job.floats(kStage, chunk.count), chunk.count);
    std::fill(result.begin(), result.end(), 0.0f);
    HORA_CO_TRY(gathered_result(job, chunk, at, each, result));
    take_back(job, chunk, job.out + at, result.data());
  }
  co_return Status();
}

// Recode: parts go to their owners, who decode and add them in rank order, encode the sum with
// a memory of their own, and send it to all, themselves included. Vote: owners count ballots

Status add_up(Job& job, const Chunk& chunk, size_t at, std::span<float> sum, float scale) {
  const size_t each = job.sizes[static_cast<size_t>(job.me())];
  for (size_t r = 0; r < static_cast<size_t>(job.ranks()); ++r) {
    HORA_TRY(chunk.slot->codec->decode_add(
        job.turn(*chunk.slot), {job.in + r * each + at, chunk.bytes}, chunk.first, sum, scale));
  }
  return {};
}

Status recode_chunk(Job& job, const Chunk& chunk, size_t at, std::byte* to) {
  const std::span<float> sum(job.floats(kStage, chunk.count), chunk.count);
  std::fill(sum.begin(), sum.end(), 0.0f);
  HORA_TRY(add_up(job, chunk, at, sum, 1.0f));
  chunk.slot->codec->encode(job.owner_turn(*chunk.slot), {sum.data(), chunk.first, chunk.count},
                            job.owned(chunk), to);
  ++job.recoded;
  return {};
}

Ticket recode_own_parts(Job& job) {
  const size_t mine = static_cast<size_t>(job.me());
  Walk walk(job.slots, job.ranks());
  size_t at = 0;
  for (Chunk chunk; walk.next(chunk);) {
    if (chunk.owner != job.me()) continue;
    std::byte* to = job.all + job.cursors[mine] + at;
    if (job.votes) {
      const auto voters = static_cast<size_t>(job.ranks());
      HORA_CO_TRY(chunk.slot->codec->vote(job.in + at, job.sizes[mine], voters, chunk.count, to));
    } else {
      HORA_CO_TRY(recode_chunk(job, chunk, at, to));
    }
    std::memset(to + chunk.bytes, 0, aligned(chunk.bytes) - chunk.bytes);
    at += aligned(chunk.bytes);
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  co_return Status();
}

Status recoded_result(Job& job, const Chunk& chunk, size_t at, std::span<float> result) {
  return chunk.slot->codec->decode_add(job.owner_turn(*chunk.slot), {job.all + at, chunk.bytes},
                                       chunk.first, result, job.result_scale());
}

Ticket recode(Job& job) {
  const auto ranks = static_cast<size_t>(job.ranks());
  const size_t total = lay_out(job, job.ranks(), ranks);
  const size_t mine = job.sizes[static_cast<size_t>(job.me())];
  job.out = job.scratch(kOut, total);
  job.in = job.scratch(kIn, mine * ranks);
  job.all = job.scratch(kAll, total);
  Walk walk(job.slots, job.ranks());
  for (Chunk chunk; walk.next(chunk);) {
    encode(job, chunk, job.out + job.advance(chunk));
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  auto* receive = reinterpret_cast<size_t*>(job.scratch(kOther, ranks * sizeof(size_t)));
  std::fill_n(receive, ranks, mine);
  HORA_CO_TRY(co_await job.communicator.alltoall(job.lane, Tag::of(job.sequence, 0), job.out,
                                                 job.sizes, job.in, {receive, ranks}));
  job.begin_cursors();
  HORA_CO_TRY(co_await recode_own_parts(job));
  HORA_CO_TRY(co_await job.communicator.allgather(
      job.lane, Tag::of(job.sequence, 1), job.all + job.cursors[static_cast<size_t>(job.me())],
      job.all, job.sizes));
  bool finite = true;
  walk = Walk(job.slots, job.ranks());
  for (Chunk chunk; walk.next(chunk);) {
    const std::span<float> result = begin_result(job, chunk);
    HORA_CO_TRY(recoded_result(job, chunk, job.advance(chunk), result));
    HORA_CO_TRY(judge(chunk, result));
    finite = end_result(chunk, result) && finite;
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  if (finite) co_return Status();
  // From here on nothing can fail: what the poisoned blocks did not use goes back.
  job.begin_cursors();
  walk = Walk(job.slots, job.ranks());
  for (Chunk chunk; walk.next(chunk);) {
    const size_t at = job.advance(chunk);
    const std::span<float> result(job.floats(kStage, chunk.count), chunk.count);
    std::fill(result.begin(), result.end(), 0.0f);
    HORA_CO_TRY(recoded_result(job, chunk, at, result));
    take_back(job, chunk, job.out + at, result.data());
  }
  co_return Status();
}

/// An owner that has encoded a sum has E' = (sum + E) - said; the sum itself goes back to those who
/// sent it, so E = E' + said - sum. Where anything is poisoned E had stayed as it was.
void undo_second_encodings(Job& job) {
  job.begin_cursors();
  const size_t base = job.cursors[static_cast<size_t>(job.me())];
  Walk walk(job.slots, job.ranks());
  size_t at = 0, undone = 0;
  for (Chunk chunk; undone < job.recoded && walk.next(chunk);) {
    if (chunk.owner != job.me()) continue;
    State& owned = job.owned(chunk);
    if (owned.slab("residual")) {
      const std::span<float> back(job.floats(kStage, chunk.count), chunk.count);
      std::fill(back.begin(), back.end(), 0.0f);
      Status own = chunk.slot->codec->decode_add(
          job.owner_turn(*chunk.slot), {job.all + base + at, chunk.bytes}, chunk.first, back, 1.0f);
      if (own.ok()) own = add_up(job, chunk, at, back, -1.0f);
      HORA_CHECK(own.ok(), own.message());  // both were decoded or written here before
      for (size_t i = 0; i < chunk.count; ++i) {
        if (is_finite(back[i])) owe(owned, chunk.first + i, back[i]);
      }
    }
    at += aligned(chunk.bytes);
    ++undone;
  }
}

// Linear: payloads are sums; one allreduce for each round

Reduction reduction_of(const Job& job, int round) {
  const Codec& codec = *job.slots.front().codec;
  const DType wire = codec.wire(round);
  if (codec.takes_largest(round)) return {wire, ReduceOp::kMax, 1, 1};
  return {wire, is_float(wire) ? job.combine.op : ReduceOp::kSum, 1, 1};
}

Ticket linear(Job& job) {
  const int rounds = job.slots.front().codec->rounds();
  std::byte* before = nullptr;
  size_t total = 0;
  for (int round = 0; round < rounds; ++round) {
    Walk walk(job.slots, 0);
    total = 0;
    for (Chunk chunk; walk.next(chunk);)
      total += aligned(chunk.slot->codec->round_bytes(round, chunk.count, job.ranks()));
    std::byte* now = job.scratch(round % 2 == 0 ? kOut : kIn, total);
    size_t at = 0, was = 0;
    walk = Walk(job.slots, 0);
    for (Chunk chunk; walk.next(chunk);) {
      const Codec& codec = *chunk.slot->codec;
      const size_t bytes = codec.round_bytes(round, chunk.count, job.ranks());
      if (round == 0)
        codec.encode(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), now + at);
      else
        codec.next(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), before + was,
                   now + at);
      std::memset(now + at + bytes, 0, aligned(bytes) - bytes);
      at += aligned(bytes);
      if (round > 0) was += aligned(codec.round_bytes(round - 1, chunk.count, job.ranks()));
      if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
    }
    const Reduction reduction = reduction_of(job, round);
    const Segment segment{now, total / bytes_of(reduction.dtype)};
    HORA_CO_TRY(co_await job.communicator.allreduce(
        job.lane, Tag::of(job.sequence, static_cast<uint64_t>(round)), {&segment, 1}, reduction));
    before = now;
  }
  const bool averaged = reduction_of(job, rounds - 1).op == ReduceOp::kAverage;
  const float scale = averaged ? static_cast<float>(job.combine.postscale) : job.result_scale();
  size_t at = 0;
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const size_t bytes = chunk.slot->codec->round_bytes(rounds - 1, chunk.count, job.ranks());
    const Piece piece{nullptr, chunk.first, chunk.count};
    const std::span<float> result = begin_result(job, chunk);
    Turn turn = job.turn(*chunk.slot);
    if (!averaged) turn.mean = 1.0f / static_cast<float>(job.ranks());
    HORA_CO_TRY(chunk.slot->codec->finish(turn, piece, job.mine(chunk), {before + at, bytes},
                                          result.data(), scale));
    end_result(chunk, result);
    at += aligned(bytes);
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  co_return Status();
}

// Dense: the values themselves

Ticket dense(Job& job) {
  const DType dtype = job.slots.front().dtype;
  auto* segments =
      reinterpret_cast<Segment*>(job.scratch(kTables, job.slots.size() * sizeof(Segment)));
  for (size_t i = 0; i < job.slots.size(); ++i) {
    const Slot& slot = job.slots[i];
    HORA_CHECK(slot.dtype == dtype, "a dense bucket has one element type");
    if (slot.result != slot.input)
      std::memcpy(slot.result, slot.input, slot.count * bytes_of(dtype));
    segments[i] = {slot.result, slot.count};
  }
  const Reduction reduction{dtype, job.combine.op, job.combine.prescale, job.combine.postscale};
  co_return co_await job.communicator.allreduce(job.lane, Tag::of(job.sequence, 0),
                                                {segments, job.slots.size()}, reduction);
}

/// Whether parts go to owners.
bool is_striped(Aggregation how) {
  return how == Aggregation::kRecode || how == Aggregation::kVote;
}

}  // namespace

Ticket aggregate(Lane& lane, Communicator& communicator, uint64_t sequence, Aggregation how,
                 std::span<const Slot> slots, Combine combine) {
  if (slots.empty()) co_return Status();
  Job job{
      lane, communicator, sequence, slots, combine, LaneWorkspace(lane), how == Aggregation::kVote};
  if (how == Aggregation::kDense) co_return co_await dense(job);
  HORA_CHECK(combine.op == ReduceOp::kSum || combine.op == ReduceOp::kAverage,
             "compressed gradients are summed or averaged");
  if (how == Aggregation::kLinear) co_return co_await linear(job);
  Status status;
  if (how == Aggregation::kMerge)
    status = co_await merge(job);
  else if (how == Aggregation::kGather)
    status = co_await gather(job);
  else
    status = co_await recode(job);
  if (status.ok()) co_return status;
  const bool recodes = is_striped(how);
  if (recodes) undo_second_encodings(job);
  undo_encodings(job, recodes ? job.ranks() : 0);
  co_return status;
}

uint64_t wire_bytes(Aggregation how, std::span<const Slot> slots, int size,
                    std::span<const int> degrees) {
  const auto ranks = static_cast<uint64_t>(size);
  uint64_t once = 0;
  if (how == Aggregation::kDense) {
    for (const Slot& slot : slots) once += slot.count * bytes_of(slot.dtype);
    return 2 * once * (ranks - 1) / ranks;
  }
  if (how == Aggregation::kMerge) return merged_bytes(slots, size, degrees);
  Walk walk(slots, is_striped(how) ? size : 0);
  for (Chunk chunk; walk.next(chunk);) {
    if (how != Aggregation::kLinear) once += aligned(chunk.bytes);
    for (int round = 0; how == Aggregation::kLinear && round < chunk.slot->codec->rounds();
         ++round) {
      once += aligned(chunk.slot->codec->round_bytes(round, chunk.count, size));
    }
  }
  return how == Aggregation::kGather ? once * (ranks - 1) : 2 * once * (ranks - 1) / ranks;
}

}  // namespace hora
