#include "ops/aggregate.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "ops/aggregate_job.h"
#include "ops/merge.h"
#include "ops/recode.h"

namespace hora {

using namespace aggregation;

namespace {

/// What this rank has encoded goes back into its memories. `striped` as when it was laid out.
void undo_encodings(Job& job, int striped) {
  job.begin_cursors();
  Walk walk(job.slots, striped);
  Chunk chunk;
  for (size_t i = 0; i < job.encoded && walk.next(chunk); ++i) {
    take_back(job, chunk, job.said(chunk), nullptr);
  }
}

// Gather: everybody receives every payload and decodes them in rank order

Ticket encode_all(Job& job) {
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    encode(job, chunk);
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  co_return Status();
}

Ticket gather(Job& job) {
  const auto ranks = static_cast<size_t>(job.ranks());
  const size_t most = lay_out(job, 0, 1);
  job.all = job.scratch(kAll, most * ranks);
  job.out = job.varies ? job.scratch(kOut, most) : job.all + static_cast<size_t>(job.me()) * most;
  HORA_CO_TRY(co_await encode_all(job));
  if (job.varies) {
    pack(job);
    HORA_CO_TRY(co_await tell_sizes(job, job.there.sizes, job.from));
  }
  job.count_sent(job.there.sizes[0] * (ranks - 1));
  HORA_CO_TRY(co_await job.communicator.allgather(job.lane, job.next_tag(), job.out, job.all,
                                                  job.from.sizes));
  bool finite = true;
  job.begin_cursors();
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const std::span<float> result = begin_result(job, chunk);
    HORA_CO_TRY(add_up(job, chunk, job.all, result, job.result_scale()));
    if (const Verdict no = judge(*chunk.slot, result); !no.status.ok())
      co_return co_await complete(job, no);
    finite = end_result(chunk, result) && finite;
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  HORA_CO_TRY(all_read(job.from));
  const Verdict fine;
  HORA_CO_TRY(co_await complete(job, fine));
  if (finite) co_return Status();
  // From here on nothing can fail: what the poisoned blocks did not use goes back.
  job.begin_cursors();
  walk = Walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const std::span<float> result(job.floats(kStage, chunk.count), chunk.count);
    std::fill(result.begin(), result.end(), 0.0f);
    HORA_CO_TRY(add_up(job, chunk, job.all, result, job.result_scale()));
    take_back(job, chunk, job.said(chunk), result.data());
  }
  co_return Status();
}

// Linear: payloads are sums; one allreduce for each round. What finish() does to a memory cannot be
// taken back by a payload, so where an ending may still fail, memories are copied before

/// Visits what finish() may change: of memories that count elements, those of the slot.
template <class Visit>
void each_memory(const Job& job, Visit visit) {
  const auto part_of = [](const Slot& slot, const State::Slab& slab, auto values) {
    if (slab.spec.law != Law::kPending || values.empty()) return values;
    return values.subspan(slot.first - slot.mine->first, slot.count);
  };
  for (const Slot& slot : job.slots) {
    if (!slot.mine) continue;
    for (State::Slab& slab : slot.mine->slabs) {
      visit(std::as_writable_bytes(part_of(slot, slab, std::span(slab.values))));
      visit(std::as_writable_bytes(part_of(slot, slab, std::span(slab.halves))));
    }
  }
}

std::byte* keep_memories(Job& job) {
  size_t total = 0;
  each_memory(job, [&](std::span<const std::byte> bytes) { total += bytes.size(); });
  std::byte* const kept = job.scratch(kBefore, total);
  each_memory(job, [to = kept](std::span<const std::byte> bytes) mutable {
    to = std::copy(bytes.begin(), bytes.end(), to);
  });
  return kept;
}

void restore_memories(Job& job, const std::byte* kept) {
  each_memory(job, [&](std::span<std::byte> bytes) {
    std::copy_n(kept, bytes.size(), bytes.begin());
    kept += bytes.size();
  });
}

Reduction reduction_of(const Job& job, int round) {
  const Codec& codec = *job.slots.front().codec;
  const DType wire = codec.wire(round);
  if (codec.takes_largest(round)) return {wire, ReduceOp::kMax, 1, 1};
  return {wire, is_float(wire) ? job.combine.op : ReduceOp::kSum, 1, 1};
}

/// Decodes the last round's outcome and settles memories.
Ticket finish_all(Job& job, const std::byte* outcome) {
  const int last = job.slots.front().codec->rounds() - 1;
  const bool averaged = reduction_of(job, last).op == ReduceOp::kAverage;
  const float scale = averaged ? static_cast<float>(job.combine.postscale) : job.result_scale();
  size_t at = 0;
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const Codec& codec = *chunk.slot->codec;
    const size_t bytes = codec.round_bytes(last, chunk.count, job.ranks());
    const Piece piece{nullptr, chunk.first, chunk.count};
    const std::span<float> result = begin_result(job, chunk);
    Turn turn = job.turn(*chunk.slot);
    if (!averaged) turn.mean = 1.0f / static_cast<float>(job.ranks());
    HORA_CO_TRY(
        codec.finish(turn, piece, job.mine(chunk), {outcome + at, bytes}, result.data(), scale));
    end_result(chunk, result);
    at += aligned(bytes);
    if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
  }
  co_return Status();
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
  if (!job.ending) co_return co_await finish_all(job, before);
  const std::byte* const kept = keep_memories(job);
  Status status = co_await finish_all(job, before);
  const Verdict fine;
  if (status.ok()) status = co_await complete(job, fine);
  if (!status.ok()) restore_memories(job, kept);
  co_return status;
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

/// Whether anybody's payloads vary in size on their way there, and sums' on theirs back. In a merge
/// they do not travel.
struct Varying {
  bool there = false, back = false;
  Varying(Aggregation how, std::span<const Slot> slots) {
    const bool striped = is_striped(how);
    for (const Slot& slot : slots) {
      there = there || ((striped || how == Aggregation::kGather) && slot.codec->traits().varies);
      back = back || (striped && slot.second().traits().varies);
    }
  }
};

}  // namespace

Ticket aggregation::aggregate(Lane& lane, Communicator& communicator, uint64_t sequence,
                              Aggregation how, std::span<const Slot> slots, Combine combine,
                              Ending* ending) {
  Job job{lane,    communicator,        sequence, slots,
          combine, LaneWorkspace(lane), ending,   how == Aggregation::kVote};
  const Verdict fine;
  if (slots.empty()) co_return co_await complete(job, fine);
  const Varying varying(how, slots);
  job.varies = varying.there;
  job.back_varies = varying.back;
  if (combine.sent && !job.varies && !job.back_varies)
    *combine.sent += wire_bytes(how, slots, job.ranks(), combine.degrees);
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
  if (recodes) undo_answers(job);
  undo_encodings(job, recodes ? job.ranks() : 0);
  co_return status;
}

Ticket aggregate(Lane& lane, Communicator& communicator, uint64_t sequence, Aggregation how,
                 std::span<const Slot> slots, Combine combine) {
  return aggregation::aggregate(lane, communicator, sequence, how, slots, combine, nullptr);
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
  uint64_t back = 0;
  Walk walk(slots, is_striped(how) ? size : 0);
  for (Chunk chunk; walk.next(chunk);) {
    if (how != Aggregation::kLinear) once += aligned(chunk.bytes);
    back += aligned(chunk.back_bytes);
    for (int round = 0; how == Aggregation::kLinear && round < chunk.slot->codec->rounds();
         ++round) {
      once += aligned(chunk.slot->codec->round_bytes(round, chunk.count, size));
    }
  }
  const Varying varying(how, slots);
  const uint64_t sizes =
      (uint64_t{varying.there} + uint64_t{varying.back}) * sizeof(uint64_t) * (ranks - 1);
  if (how == Aggregation::kGather) return once * (ranks - 1) + sizes;
  return sizes + (once + (is_striped(how) ? back : once)) * (ranks - 1) / ranks;
}

}  // namespace hora
