#include "ops/hierarchical/communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/kernels/reduce.h"

namespace hora::hierarchical {
namespace {

constexpr size_t kWholeSlot = 8, kShardSlot = 10;  // above those of backends
constexpr size_t kLine = 64;

/// Reducing in two layers computes the same, but for rounding.
bool composable(const Reduction& reduction) {
  return is_float(reduction.dtype) || (reduction.op != ReduceOp::kAverage &&
                                       reduction.prescale == 1 && reduction.postscale == 1);
}

/// What is left to do between hosts once each has combined its members' scaled values.
Reduction between(Reduction reduction, int members) {
  reduction.prescale = 1;
  if (reduction.op != ReduceOp::kAverage) return reduction;
  reduction.op = ReduceOp::kSum;
  reduction.postscale /= members;
  return reduction;
}

Reduction within(Reduction reduction) {
  reduction.postscale = 1;
  if (reduction.op == ReduceOp::kAverage) reduction.op = ReduceOp::kSum;
  return reduction;
}

}  // namespace

HierarchicalCommunicator::HierarchicalCommunicator(Layout layout, Links links, int lane)
    : layout_(std::move(layout)),
      links_(std::move(links)),
      inside_(lane),
      across_(lane),
      counts_(layout_.local.size()),
      bytes_(layout_.local.size()) {}

Ticket HierarchicalCommunicator::allreduce(Lane& lane, uint64_t tag,
                                           std::span<const Segment> segments,
                                           const Reduction& reduction) {
  if (!layered()) return only().allreduce(lane, tag * kTags, segments, reduction);
  if (!composable(reduction)) return links_.flat->allreduce(lane, tag * kTags, segments, reduction);
  return in_layers(lane, tag * kTags, segments, reduction);
}

Ticket HierarchicalCommunicator::reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input,
                                                std::byte* output, std::span<const size_t> counts,
                                                const Reduction& reduction) {
  return only().reduce_scatter(lane, tag * kTags, input, output, counts, reduction);
}

Ticket HierarchicalCommunicator::allgather(Lane& lane, uint64_t tag, const std::byte* input,
                                           std::byte* output, std::span<const size_t> bytes) {
  return only().allgather(lane, tag * kTags, input, output, bytes);
}

Ticket HierarchicalCommunicator::alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                                          std::span<const size_t> send, std::byte* output,
                                          std::span<const size_t> receive) {
  return only().alltoall(lane, tag * kTags, input, send, output, receive);
}

Ticket HierarchicalCommunicator::broadcast(Lane& lane, uint64_t tag,
                                           std::span<const Segment> segments, int root) {
  if (!layered()) return only().broadcast(lane, tag * kTags, segments, root);
  return broadcast_in_layers(lane, tag * kTags, segments, static_cast<size_t>(root));
}

Ticket HierarchicalCommunicator::barrier(Lane& lane, uint64_t tag) {
  if (!layered()) return only().barrier(lane, tag * kTags);
  return barrier_in_layers(lane, tag * kTags);
}

void HierarchicalCommunicator::abort() {
  for (Communicator* link : {links_.inside.get(), links_.column.get(), links_.flat.get()})
    if (link) link->abort();
}

Ticket HierarchicalCommunicator::broadcast_in_layers(Lane& lane, uint64_t tag,
                                                     std::span<const Segment> segments,
                                                     size_t root) {
  const size_t source = layout_.host_of[root];
  const bool here = layout_.host_of[static_cast<size_t>(layout_.me)] == source;
  if (here && links_.inside) {
    Ticket first =
        links_.inside->broadcast(lane, tag, segments, static_cast<int>(layout_.local_of[root]));
    HORA_CO_TRY(co_await first);
  }
  if (layout_.local_index == 0) {
    Ticket hosts = links_.column->broadcast(lane, tag, segments, static_cast<int>(source));
    HORA_CO_TRY(co_await hosts);
  }
  if (!here && links_.inside) {
    Ticket last = links_.inside->broadcast(lane, tag, segments, 0);
    HORA_CO_TRY(co_await last);
  }
  co_return Status();
}

Ticket HierarchicalCommunicator::barrier_in_layers(Lane& lane, uint64_t tag) {
  if (links_.inside) {
    Ticket arrived = links_.inside->barrier(lane, tag);
    HORA_CO_TRY(co_await arrived);
  }
  if (layout_.local_index == 0) {
    Ticket hosts = links_.column->barrier(lane, tag);
    HORA_CO_TRY(co_await hosts);
  }
  if (links_.inside) {
    Ticket left = links_.inside->barrier(lane, tag + 1);
    HORA_CO_TRY(co_await left);
  }
  co_return Status();
}

// Two coroutines on lanes of their own, driven from here: while a chunk's shard crosses, the next
// chunk is scattered and the one before gathered.
Ticket HierarchicalCommunicator::in_layers(Lane& lane, uint64_t tag,
                                           std::span<const Segment> segments, Reduction reduction) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));
  prepare(tag, segments, reduction);
  inside_.start(run_inside());
  across_.start(run_across());
  Status status = work_.failed;
  while (!inside_.idle() || !across_.idle()) {
    if (!status.ok()) {
      inside_.abort(status);
      across_.abort(status);
    }
    const auto step = [this, moved = false]() mutable {
      const bool inside = inside_.progress(), across = across_.progress();
      moved |= inside || across;
      return moved;
    };
    if (!status.ok()) {
      HORA_CO_TRY(co_await lane.settle(step));
      continue;
    }
    status = co_await lane.until(step);
    if (status.ok()) status = co_await lane.pause();
    if (status.ok()) status = work_.failed;
  }
  co_return status.ok() ? work_.failed : status;
}

void HierarchicalCommunicator::prepare(uint64_t tag, std::span<const Segment> segments,
                                       const Reduction& reduction) {
  const size_t width = bytes_of(reduction.dtype), count = count_in(segments);
  const size_t least = kChunkBytes / width, line = kLine / width;
  const size_t per_chunk =
      std::max(least, (count + kMaxChunks * line - 1) / (kMaxChunks * line) * line);
  work_ = Work{within(reduction),
               between(reduction, size()),
               Cursor(segments, width),
               Cursor(segments, width),
               tag,
               tag,
               width,
               count,
               per_chunk,
               (count + per_chunk - 1) / per_chunk};
  const size_t bytes = std::min(count, per_chunk) * width;
  for (size_t i = 0; i < std::min(kDepth, work_.chunks); ++i) {
    work_.whole[i] = inside_.scratch(kWholeSlot + i, bytes).data();
    work_.shard[i] = inside_.scratch(kShardSlot + i, bytes).data();
  }
}

size_t HierarchicalCommunicator::count_in_chunk(size_t chunk) const {
  return std::min(work_.per_chunk, work_.count - chunk * work_.per_chunk);
}

/// Elements of a chunk that are reduced between hosts by this host's member `index`.
size_t HierarchicalCommunicator::shard_of(size_t chunk, size_t index) const {
  if (index >= layout_.columns) return 0;
  const size_t count = count_in_chunk(chunk), line = kLine / work_.width;
  const size_t per = (count + layout_.columns * line - 1) / (layout_.columns * line) * line;
  return std::min(per, count - std::min(count, per * index));
}

Ticket HierarchicalCommunicator::run_inside() {
  for (size_t k = 0; k <= work_.chunks && work_.chunks > 0; ++k) {
    if (k < work_.chunks) {
      Ticket in = scatter(k);
      HORA_CO_TRY(note(co_await in));
      work_.scattered = k + 1;
    }
    if (k == 0) continue;
    HORA_CO_TRY(co_await inside_.until([this, k] { return work_.crossed >= k; }));
    Ticket out = gather(k - 1);
    HORA_CO_TRY(note(co_await out));
  }
  co_return Status();
}

Ticket HierarchicalCommunicator::run_across() {
  for (size_t k = 0; k < work_.chunks; ++k) {
    HORA_CO_TRY(co_await across_.until([this, k] { return work_.scattered > k; }));
    shard_ = {work_.shard[k % kDepth], shard_of(k, layout_.local_index)};
    if (shard_.count > 0) {
      Ticket reduced =
          links_.column->allreduce(across_, work_.tag + k, {&shard_, 1}, work_.between);
      HORA_CO_TRY(note(co_await reduced));
    }
    work_.crossed = k + 1;
  }
  co_return Status();
}

/// Copies a chunk in and reduces it within the host; this member's shard is then in its place.
Ticket HierarchicalCommunicator::scatter(size_t chunk) {
  std::byte* const whole = work_.whole[chunk % kDepth];
  std::byte* const shard = work_.shard[chunk % kDepth];
  const size_t count = count_in_chunk(chunk);
  work_.in.take(count, [&](std::byte* data, size_t elements, size_t at) {
    std::memcpy(whole + at * work_.width, data, elements * work_.width);
  });
  if (!links_.inside) {
    const std::byte* const in[] = {whole};
    std::byte* const out[] = {shard};
    reduce(work_.within, in, out, count);
    co_return Status();
  }
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] = shard_of(chunk, i);
  Ticket reduced = links_.inside->reduce_scatter(inside_, work_.inside_tag++, whole, shard, counts_,
                                                 work_.within);
  co_return co_await reduced;
}

/// Collects a chunk's shards within the host, and copies it out.
Ticket HierarchicalCommunicator::gather(size_t chunk) {
  const std::byte* result = work_.shard[chunk % kDepth];
  if (links_.inside) {
    std::byte* const whole = work_.whole[chunk % kDepth];
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = shard_of(chunk, i) * work_.width;
    Ticket gathered = links_.inside->allgather(inside_, work_.inside_tag++, result, whole, bytes_);
    HORA_CO_TRY(co_await gathered);
    result = whole;
  }
  work_.out.take(count_in_chunk(chunk), [&](std::byte* data, size_t elements, size_t at) {
    std::memcpy(data, result + at * work_.width, elements * work_.width);
  });
  co_return Status();
}

/// Tells the other coroutine of a failure.
Status HierarchicalCommunicator::note(Status status) {
  if (!status.ok() && work_.failed.ok()) work_.failed = status;
  return status;
}

}  // namespace hora::hierarchical
