#include "ops/aggregate.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <fmt/format.h>

#include "compressors/convert.h"
#include "compressors/stripes.h"

// A bucket is walked in chunks: runs of one slot's elements that are encoded as one payload, short
// enough to stay in L2. In a recode a chunk is a stripe, with one owner; otherwise the owner is 0.
// Payloads lie in the order of the walk, those for one owner side by side. Every rank has the same
// slots, hence the same chunks, so no size is ever sent.

namespace hora {
namespace {

constexpr size_t kChunk = 32768;                    // elements; 128 KiB of float32
constexpr size_t kBetweenPauses = size_t{1} << 17;  // elements; 512 KiB of float32

size_t aligned(size_t bytes) {
  return (bytes + 7) / 8 * 8;
}

enum ScratchSlot : size_t { kTables = kAggregateScratch, kOut, kIn, kAll, kStage, kOther, kWork };

class LaneWorkspace final : public Workspace {
 public:
  explicit LaneWorkspace(Lane& lane) : lane_(lane) {}
  std::byte* memory(size_t slot, size_t bytes) override {
    return lane_.scratch(kWork + slot, bytes).data();
  }

 private:
  Lane& lane_;
};

struct Chunk {
  const Slot* slot = nullptr;
  uint64_t first = 0;  // in the tensor
  size_t count = 0;
  int owner = 0;
  size_t bytes = 0;       // of its payload
  size_t owned_slot = 0;  // where an owner's memory has it
};

/// Visits all chunks of a bucket, always in the same order. `ranks` 0: nothing is striped.
class Walk {
 public:
  Walk(std::span<const Slot> slots, int ranks) : slots_(slots), ranks_(ranks) {}

  bool next(Chunk& chunk) {
    while (index_ < slots_.size() && done_ == slots_[index_].count) {
      ++index_;
      done_ = 0;
    }
    if (index_ == slots_.size()) return false;
    const Slot& slot = slots_[index_];
    const size_t left = slot.count - done_;
    chunk.slot = &slot;
    chunk.first = slot.first + done_;
    if (ranks_ > 0) {
      const Extent& extent = slot.codec->extent();
      const Stripes stripes(extent.id, extent.count(), slot.codec->granule(), ranks_);
      chunk.owner = stripes.owner(chunk.first);
      chunk.owned_slot = stripes.slot(chunk.first);
      chunk.count = std::min<size_t>(left, stripes.end(chunk.first) - chunk.first);
    } else {
      chunk.count = std::min(left, longest(*slot.codec));
    }
    chunk.bytes = slot.codec->payload_bytes(chunk.count);
    done_ += chunk.count;
    return true;
  }

 private:
  static size_t longest(const Codec& codec) {
    if (codec.traits().sparse || codec.rounds() > 1) return ~size_t{0};
    return std::max<size_t>(1, kChunk / codec.granule()) * codec.granule();
  }

  std::span<const Slot> slots_;
  int ranks_;
  size_t index_ = 0, done_ = 0;
};

struct Job {
  Lane& lane;
  Communicator& communicator;
  const uint64_t sequence;
  const std::span<const Slot> slots;
  const Combine combine;
  LaneWorkspace workspace;
  State none = {};

  size_t since_pause = 0;
  size_t encoded = 0, recoded = 0;  // chunks whose memories have been settled so far
  std::span<size_t> sizes = {};     // bytes for each owner
  std::span<size_t> cursors = {};   // where each owner's bytes go on
  std::byte *out = nullptr, *in = nullptr, *all = nullptr;

  int me() const { return communicator.rank(); }
  int ranks() const { return communicator.size(); }
  Turn turn(const Slot& slot) {
    return {slot.step, static_cast<uint64_t>(me()), workspace,
            static_cast<float>(combine.prescale)};
  }
  Turn owner_turn(const Slot& slot) {
    return {slot.step, static_cast<uint64_t>(Drawer::kOwner), workspace};
  }
  State& mine(const Chunk& chunk) { return chunk.slot->mine ? *chunk.slot->mine : none; }

  /// The owner's memory has its stripes side by side: for each stripe it seems to begin elsewhere.
  State& owned(const Chunk& chunk) {
    State& state = chunk.slot->owned ? *chunk.slot->owned : none;
    state.first = chunk.first - chunk.owned_slot;
    return state;
  }

  float result_scale() const {
    const double members = combine.op == ReduceOp::kAverage ? ranks() : 1;
    return static_cast<float>(combine.postscale / members);
  }
  bool pause_is_due(size_t count) {
    since_pause += count;
    if (since_pause < kBetweenPauses) return false;
    since_pause = 0;
    return true;
  }
  void begin_cursors() {
    size_t at = 0;
    for (size_t r = 0; r < sizes.size(); ++r) {
      cursors[r] = at;
      at += sizes[r];
    }
  }
  size_t advance(const Chunk& chunk) {
    const size_t at = cursors[static_cast<size_t>(chunk.owner)];
    cursors[static_cast<size_t>(chunk.owner)] += aligned(chunk.bytes);
    return at;
  }
  std::byte* scratch(size_t slot, size_t bytes) { return lane.scratch(slot, bytes).data(); }
  float* floats(size_t slot, size_t count) {
    return reinterpret_cast<float*>(scratch(slot, count * sizeof(float)));
  }
};

size_t offset(const Chunk& chunk) {
  return (chunk.first - chunk.slot->first) * bytes_of(chunk.slot->dtype);
}

/// The chunk's gradient in float32.
Piece piece_of(Job& job, const Chunk& chunk) {
  const std::byte* input = chunk.slot->input + offset(chunk);
  if (chunk.slot->dtype == DType::kFloat32) {
    return {reinterpret_cast<const float*>(input), chunk.first, chunk.count};
  }
  float* wide = job.floats(kStage, chunk.count);
  widen(chunk.slot->dtype, input, wide, chunk.count);
  return {wide, chunk.first, chunk.count};
}

void encode(Job& job, const Chunk& chunk, std::byte* to) {
  chunk.slot->codec->encode(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), to);
  std::memset(to + chunk.bytes, 0, aligned(chunk.bytes) - chunk.bytes);
  ++job.encoded;
}

/// Zeros in float32 for a chunk's result: its place itself, if that is float32.
std::span<float> begin_result(Job& job, const Chunk& chunk) {
  float* result = chunk.slot->dtype == DType::kFloat32
                      ? reinterpret_cast<float*>(chunk.slot->result + offset(chunk))
                      : job.floats(kStage, chunk.count);
  std::fill_n(result, chunk.count, 0.0f);
  return {result, chunk.count};
}

/// Rounds it once, if need be. False: something in it is not finite.
bool end_result(const Chunk& chunk, std::span<const float> result) {
  if (chunk.slot->dtype != DType::kFloat32) {
    narrow(chunk.slot->dtype, result.data(), chunk.slot->result + offset(chunk), chunk.count);
  }
  return all_finite(result.data(), result.size());
}

/// What the codec says of a decoded sum; the same on all ranks, as the sum is.
Status judge(const Chunk& chunk, std::span<const float> result) {
  Status status = chunk.slot->codec->judge(result);
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("'{}': {}", chunk.slot->tensor, status.message()));
}

void take_back(Job& job, const Chunk& chunk, const std::byte* payload, const float* result) {
  chunk.slot->codec->take_back(job.turn(*chunk.slot), {nullptr, chunk.first, chunk.count},
                               job.mine(chunk), {payload, chunk.bytes}, result);
}

/// Payload offsets for `owners` owners; gives the bytes of all.
size_t lay_out(Job& job, int striped, size_t owners) {
  auto* table = reinterpret_cast<size_t*>(job.scratch(kTables, 2 * owners * sizeof(size_t)));
  job.sizes = {table, owners};
  job.cursors = {table + owners, owners};
  std::fill_n(table, owners, 0);
  size_t total = 0;
  Walk walk(job.slots, striped);
  for (Chunk chunk; walk.next(chunk);) {
    job.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.bytes);
    total += aligned(chunk.bytes);
  }
  job.begin_cursors();
  return total;
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

void undo_gather(Job& job) {
  job.begin_cursors();
  Walk walk(job.slots, 0);
  Chunk chunk;
  for (size_t i = 0; i < job.encoded && walk.next(chunk); ++i) {
    take_back(job, chunk, job.out + job.advance(chunk), nullptr);
  }
}

// Recode: parts go to their owners, who decode and add them in rank order, encode the sum with
// a memory of their own, and send it to all, themselves included

Status add_up(Job& job, const Chunk& chunk, size_t at, std::span<float> sum, float scale) {
  const size_t each = job.sizes[static_cast<size_t>(job.me())];
  for (size_t r = 0; r < static_cast<size_t>(job.ranks()); ++r) {
    HORA_TRY(chunk.slot->codec->decode_add(
        job.turn(*chunk.slot), {job.in + r * each + at, chunk.bytes}, chunk.first, sum, scale));
  }
  return {};
}

Ticket recode_own_parts(Job& job) {
  const size_t mine = static_cast<size_t>(job.me());
  Walk walk(job.slots, job.ranks());
  size_t at = 0;
  for (Chunk chunk; walk.next(chunk);) {
    if (chunk.owner != job.me()) continue;
    const std::span<float> sum(job.floats(kStage, chunk.count), chunk.count);
    std::fill(sum.begin(), sum.end(), 0.0f);
    HORA_CO_TRY(add_up(job, chunk, at, sum, 1.0f));
    std::byte* to = job.all + job.cursors[mine] + at;
    chunk.slot->codec->encode(job.owner_turn(*chunk.slot), {sum.data(), chunk.first, chunk.count},
                              job.owned(chunk), to);
    std::memset(to + chunk.bytes, 0, aligned(chunk.bytes) - chunk.bytes);
    ++job.recoded;
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
    const Piece piece{nullptr, chunk.first, chunk.count};
    if (float* residual = slab_at(job.owned(chunk), "residual", piece)) {
      const std::span<float> back(job.floats(kStage, chunk.count), chunk.count);
      std::fill(back.begin(), back.end(), 0.0f);
      Status own = chunk.slot->codec->decode_add(
          job.owner_turn(*chunk.slot), {job.all + base + at, chunk.bytes}, chunk.first, back, 1.0f);
      if (own.ok()) own = add_up(job, chunk, at, back, -1.0f);
      HORA_CHECK(own.ok(), own.message());  // both were decoded or written here before
      for (size_t i = 0; i < chunk.count; ++i) {
        if (is_finite(back[i])) residual[i] += back[i];
      }
    }
    at += aligned(chunk.bytes);
    ++undone;
  }
}

void undo_recode(Job& job) {
  undo_second_encodings(job);
  job.begin_cursors();
  Walk walk(job.slots, job.ranks());
  Chunk chunk;
  for (size_t i = 0; i < job.encoded && walk.next(chunk); ++i) {
    take_back(job, chunk, job.out + job.advance(chunk), nullptr);
  }
}

// Linear: payloads are sums; one allreduce for each round

Ticket linear(Job& job) {
  const int rounds = job.slots.front().codec->rounds();
  const DType wire = job.slots.front().codec->wire();
  std::byte* before = nullptr;
  size_t total = 0;
  for (int round = 0; round < rounds; ++round) {
    Walk walk(job.slots, 0);
    total = 0;
    for (Chunk chunk; walk.next(chunk);)
      total += aligned(chunk.slot->codec->round_bytes(round, chunk.count));
    std::byte* now = job.scratch(round % 2 == 0 ? kOut : kIn, total);
    size_t at = 0, was = 0;
    walk = Walk(job.slots, 0);
    for (Chunk chunk; walk.next(chunk);) {
      const Codec& codec = *chunk.slot->codec;
      const size_t bytes = codec.round_bytes(round, chunk.count);
      if (round == 0)
        codec.encode(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), now + at);
      else
        codec.next(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), before + was,
                   now + at);
      std::memset(now + at + bytes, 0, aligned(bytes) - bytes);
      at += aligned(bytes);
      if (round > 0) was += aligned(codec.round_bytes(round - 1, chunk.count));
      if (job.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job.lane.pause());
    }
    const Segment segment{now, total / bytes_of(wire)};
    const Reduction reduction{wire, job.combine.op, 1, 1};
    HORA_CO_TRY(co_await job.communicator.allreduce(
        job.lane, Tag::of(job.sequence, static_cast<uint64_t>(round)), {&segment, 1}, reduction));
    before = now;
  }
  size_t at = 0;
  Walk walk(job.slots, 0);
  for (Chunk chunk; walk.next(chunk);) {
    const size_t bytes = chunk.slot->codec->round_bytes(rounds - 1, chunk.count);
    const Piece piece{nullptr, chunk.first, chunk.count};
    const std::span<float> result = begin_result(job, chunk);
    HORA_CO_TRY(chunk.slot->codec->finish(job.turn(*chunk.slot), piece, job.mine(chunk),
                                          {before + at, bytes}, result.data(),
                                          static_cast<float>(job.combine.postscale)));
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

}  // namespace

Ticket aggregate(Lane& lane, Communicator& communicator, uint64_t sequence, Aggregation how,
                 std::span<const Slot> slots, Combine combine) {
  if (slots.empty()) co_return Status();
  Job job{lane, communicator, sequence, slots, combine, LaneWorkspace(lane)};
  if (how == Aggregation::kDense) co_return co_await dense(job);
  HORA_CHECK(combine.op == ReduceOp::kSum || combine.op == ReduceOp::kAverage,
             "compressed gradients are summed or averaged");
  if (how == Aggregation::kLinear) co_return co_await linear(job);
  const bool gathers = how == Aggregation::kGather;
  Status status;
  if (gathers)
    status = co_await gather(job);
  else
    status = co_await recode(job);
  if (status.ok()) co_return status;
  if (gathers)
    undo_gather(job);
  else
    undo_recode(job);
  co_return status;
}

uint64_t wire_bytes(Aggregation how, std::span<const Slot> slots, int size) {
  const auto ranks = static_cast<uint64_t>(size);
  uint64_t once = 0;
  if (how == Aggregation::kDense) {
    for (const Slot& slot : slots) once += slot.count * bytes_of(slot.dtype);
    return 2 * once * (ranks - 1) / ranks;
  }
  Walk walk(slots, how == Aggregation::kRecode ? size : 0);
  for (Chunk chunk; walk.next(chunk);) {
    if (how != Aggregation::kLinear) once += aligned(chunk.bytes);
    for (int round = 0; how == Aggregation::kLinear && round < chunk.slot->codec->rounds();
         ++round) {
      once += aligned(chunk.slot->codec->round_bytes(round, chunk.count));
    }
  }
  return how == Aggregation::kGather ? once * (ranks - 1) : 2 * once * (ranks - 1) / ranks;
}

}  // namespace hora
