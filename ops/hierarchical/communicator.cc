#include "ops/hierarchical/communicator.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace hora::hierarchical {
namespace {

/// Reducing in two layers computes the same, but for rounding.
bool composable(const Reduction& reduction) {
  return is_float(reduction.dtype) || (reduction.op != ReduceOp::kAverage &&
                                       reduction.prescale == 1 && reduction.postscale == 1);
}

Topology topology_of(const Layout& layout, const LinkCost& inside, const LinkCost& across) {
  const size_t hosts = std::max<size_t>(1, layout.hosts);
  return {hosts, (layout.host_of.size() + hosts - 1) / hosts, inside, across};
}

}  // namespace

HierarchicalCommunicator::HierarchicalCommunicator(Layout layout, Links links, const Costs& costs,
                                                   int lane)
    : layout_(std::move(layout)),
      links_(std::move(links)),
      given_(topology_of(layout_, costs.inside, costs.given)),
      measured_(topology_of(layout_, costs.inside, costs.measured)),
      pipeline_(lane),
      blocks_(layout_),
      local_in_(layout_.local.size()),
      local_out_(layout_.local.size()),
      column_(layout_.hosts) {}

bool HierarchicalCommunicator::pays(Collective collective, size_t bytes) const {
  return layered() && choose(measured_, bytes, collective).route == Route::kHierarchical;
}

bool HierarchicalCommunicator::pays(Collective collective, size_t bytes,
                                    const Reduction& reduction) const {
  return layered() && composable(reduction) &&
         choose(given_, bytes, collective).route == Route::kHierarchical;
}

size_t HierarchicalCommunicator::chunks_of(Collective collective, size_t bytes) const {
  return bytes == 0 ? 0 : predict(measured_, Route::kHierarchical, bytes, collective).chunks;
}

Reduction HierarchicalCommunicator::within(Reduction reduction) const {
  reduction.postscale = 1;
  if (reduction.op == ReduceOp::kAverage) reduction.op = ReduceOp::kSum;
  return reduction;
}

/// What is left to do between hosts once each has combined its members' scaled values.
Reduction HierarchicalCommunicator::between(Reduction reduction) const {
  reduction.prescale = 1;
  if (reduction.op != ReduceOp::kAverage) return reduction;
  reduction.op = ReduceOp::kSum;
  reduction.postscale /= size();
  return reduction;
}

Ticket HierarchicalCommunicator::allreduce(Lane& lane, uint64_t tag,
                                           std::span<const Segment> segments,
                                           const Reduction& reduction) {
  if (pays(Collective::kAllreduce, count_in(segments) * bytes_of(reduction.dtype), reduction))
    return sum_in_layers(lane, tag * kTags, segments, reduction);
  return only().allreduce(lane, tag * kTags, segments, reduction);
}

Ticket HierarchicalCommunicator::reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input,
                                                std::byte* output, std::span<const size_t> counts,
                                                const Reduction& reduction) {
  const size_t elements = std::accumulate(counts.begin(), counts.end(), size_t{0});
  if (pays(Collective::kReduceScatter, elements * bytes_of(reduction.dtype), reduction))
    return scatter_in_layers(lane, tag * kTags, input, output, counts, reduction);
  return only().reduce_scatter(lane, tag * kTags, input, output, counts, reduction);
}

Ticket HierarchicalCommunicator::allgather(Lane& lane, uint64_t tag, const std::byte* input,
                                           std::byte* output, std::span<const size_t> bytes) {
  if (pays(Collective::kAllgather, std::accumulate(bytes.begin(), bytes.end(), size_t{0})))
    return gather_in_layers(lane, tag * kTags, input, output, bytes);
  return only().allgather(lane, tag * kTags, input, output, bytes);
}

Ticket HierarchicalCommunicator::alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                                          std::span<const size_t> send, std::byte* output,
                                          std::span<const size_t> receive) {
  return only().alltoall(lane, tag * kTags, input, send, output, receive);
}

Ticket HierarchicalCommunicator::broadcast(Lane& lane, uint64_t tag,
                                           std::span<const Segment> segments, int root) {
  // Every rank needs all bytes, and has them sooner by memory than by a network.
  if (layered()) return broadcast_in_layers(lane, tag * kTags, segments, static_cast<size_t>(root));
  return only().broadcast(lane, tag * kTags, segments, root);
}

Ticket HierarchicalCommunicator::barrier(Lane& lane, uint64_t tag) {
  if (!layered()) return only().barrier(lane, tag * kTags);
  return barrier_in_layers(lane, tag * kTags);
}

Layers HierarchicalCommunicator::layers() {
  return {links_.inside.get(),
          links_.column.get(),
          static_cast<int>(layout_.hosts),
          static_cast<int>(host()),
          static_cast<int>(layout_.columns),
          static_cast<int>(layout_.local_index),
          kTags};
}

void HierarchicalCommunicator::abort() {
  for (Communicator* link : {links_.inside.get(), links_.column.get(), links_.flat.get()})
    if (link) link->abort();
}

/// A broadcast crosses in the root's column; a root that is in none hands it to the first.
struct HierarchicalCommunicator::Cast final : Stages {
  Cast(HierarchicalCommunicator* communicator, uint64_t first, std::span<const Segment> segments,
       size_t root)
      : self(communicator),
        tag(first),
        inside_tag(first),
        bytes(count_in(segments)),
        chunks(self->chunks_of(Collective::kBroadcast, bytes)),
        each(chunks == 0 ? 0 : (bytes + chunks - 1) / chunks),
        to_inside(segments, 1),
        to_across(segments, 1),
        source(self->layout_.host_of[root]),
        index(self->layout_.local_of[root]),
        column(index < self->layout_.columns ? index : 0) {}

  Ticket scatter(Lane& inside, size_t chunk) override {
    return within(inside, chunk, self->host() == source, index);
  }
  Ticket gather(Lane& inside, size_t chunk) override {
    return within(inside, chunk, self->host() != source, column);
  }
  Ticket cross(Lane& across, size_t chunk) override {
    if (self->layout_.local_index != column) co_return Status();
    cut(to_across, chunk, self->across_);
    Ticket hosts = self->links_.column->broadcast(across, tag + chunk, self->across_,
                                                  static_cast<int>(source));
    co_return co_await hosts;
  }

  Ticket within(Lane& inside, size_t chunk, bool here, size_t from) {
    if (!here || !self->links_.inside) co_return Status();
    cut(to_inside, chunk, self->inside_);
    Ticket mates =
        self->links_.inside->broadcast(inside, inside_tag++, self->inside_, static_cast<int>(from));
    co_return co_await mates;
  }
  void cut(Cursor& cursor, size_t chunk, std::vector<Segment>& piece) const {
    piece.clear();
    cursor.take(std::min(each, bytes - chunk * each),
                [&](std::byte* data, size_t count, size_t) { piece.push_back({data, count}); });
  }

  HierarchicalCommunicator* const self;
  const uint64_t tag;
  uint64_t inside_tag;
  const size_t bytes, chunks, each;
  Cursor to_inside, to_across;
  const size_t source, index, column;  ///< the root's host and place there; who crosses
};

Ticket HierarchicalCommunicator::broadcast_in_layers(Lane& lane, uint64_t tag,
                                                     std::span<const Segment> segments,
                                                     size_t root) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  Cast cast(this, tag, segments, root);
  Ticket all = pipeline_.run(lane, cast, cast.chunks);
  co_return co_await all;
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

}  // namespace hora::hierarchical
