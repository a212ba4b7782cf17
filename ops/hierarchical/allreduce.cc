#include <algorithm>
#include <cstring>

#include "ops/hierarchical/communicator.h"
#include "ops/kernels/reduce.h"

namespace hora::hierarchical {
namespace {

constexpr size_t kWholeSlot = 8, kShardSlot = 10;  // above those of backends
constexpr size_t kLine = 64;

}  // namespace

/// A chunk is reduced and scattered inside, each member's shard reduced between hosts, and gathered
/// inside again.
struct HierarchicalCommunicator::Sum final : Stages {
  Sum(HierarchicalCommunicator* communicator, uint64_t first, std::span<const Segment> segments,
      const Reduction& reduction)
      : self(communicator),
        within(self->within(reduction)),
        between(self->between(reduction)),
        in(segments, bytes_of(reduction.dtype)),
        out(segments, bytes_of(reduction.dtype)),
        tag(first),
        inside_tag(first),
        width(bytes_of(reduction.dtype)),
        count(count_in(segments)) {
    if (count == 0) return;
    const size_t pieces = self->chunks_of(Collective::kAllreduce, count * width);
    per_chunk = (count * width + pieces * kLine - 1) / (pieces * kLine) * kLine / width;
    chunks = (count + per_chunk - 1) / per_chunk;
    const size_t bytes = std::min(count, per_chunk) * width;
    for (size_t i = 0; i < std::min(kDepth, chunks); ++i) {
      whole[i] = self->pipeline_.scratch(kWholeSlot + i, bytes);
      shard[i] = self->pipeline_.scratch(kShardSlot + i, bytes);
    }
  }

  /// Copies a chunk in and reduces it within the host; this member's shard is then in its place.
  Ticket scatter(Lane& inside, size_t chunk) override {
    std::byte* const from = whole[chunk % kDepth];
    std::byte* const to = shard[chunk % kDepth];
    in.take(count_in_chunk(chunk), [&](std::byte* data, size_t elements, size_t at) {
      std::memcpy(from + at * width, data, elements * width);
    });
    if (!self->links_.inside) {
      const std::byte* const inputs[] = {from};
      std::byte* const outputs[] = {to};
      reduce(within, inputs, outputs, count_in_chunk(chunk));
      co_return Status();
    }
    auto& counts = self->local_in_;
    for (size_t i = 0; i < counts.size(); ++i) counts[i] = shard_of(chunk, i);
    Ticket reduced =
        self->links_.inside->reduce_scatter(inside, inside_tag++, from, to, counts, within);
    co_return co_await reduced;
  }

  Ticket cross(Lane& across, size_t chunk) override {
    crossing = {shard[chunk % kDepth], shard_of(chunk, self->layout_.local_index)};
    if (crossing.count == 0) co_return Status();
    Ticket reduced = self->links_.column->allreduce(across, tag + chunk, {&crossing, 1}, between);
    co_return co_await reduced;
  }

  /// Collects a chunk's shards within the host, and copies it out.
  Ticket gather(Lane& inside, size_t chunk) override {
    const std::byte* result = shard[chunk % kDepth];
    if (self->links_.inside) {
      std::byte* const to = whole[chunk % kDepth];
      auto& bytes = self->local_out_;
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = shard_of(chunk, i) * width;
      Ticket gathered = self->links_.inside->allgather(inside, inside_tag++, result, to, bytes);
      HORA_CO_TRY(co_await gathered);
      result = to;
    }
    out.take(count_in_chunk(chunk), [&](std::byte* data, size_t elements, size_t at) {
      std::memcpy(data, result + at * width, elements * width);
    });
    co_return Status();
  }

  size_t count_in_chunk(size_t chunk) const {
    return std::min(per_chunk, count - chunk * per_chunk);
  }
  /// Elements of a chunk that are reduced between hosts by this host's member `index`.
  size_t shard_of(size_t chunk, size_t index) const {
    const size_t columns = self->layout_.columns;
    if (index >= columns) return 0;
    const size_t all = count_in_chunk(chunk), line = kLine / width;
    const size_t per = (all + columns * line - 1) / (columns * line) * line;
    return std::min(per, all - std::min(all, per * index));
  }

  HierarchicalCommunicator* const self;
  const Reduction within, between;  ///< the members of a host, and hosts
  Cursor in, out;
  const uint64_t tag;
  uint64_t inside_tag;
  const size_t width, count;         ///< bytes, elements
  size_t per_chunk = 0, chunks = 0;  ///< elements, number
  std::byte* whole[kDepth] = {};
  std::byte* shard[kDepth] = {};
  Segment crossing;
};

Ticket HierarchicalCommunicator::sum_in_layers(Lane& lane, uint64_t tag,
                                               std::span<const Segment> segments,
                                               Reduction reduction) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  Sum sum(this, tag, segments, reduction);
  Ticket all = pipeline_.run(lane, sum, sum.chunks);
  co_return co_await all;
}

}  // namespace hora::hierarchical
