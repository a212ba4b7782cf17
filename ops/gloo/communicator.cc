#include "ops/gloo/communicator.h"

#include <cstring>
#include <utility>

#include "ops/cursor.h"
#include "ops/gloo/collectives.h"

namespace hora::gloo {
namespace {

constexpr size_t kScratch = 0;  // the lane's slot: an operation needs one
constexpr unsigned kLooksPerWatch = 16;

void pack(std::span<const Segment> segments, size_t width, std::byte* to) {
  for (const Segment& segment : segments) {
    if (segment.count > 0) std::memcpy(to, segment.data, segment.count * width);
    to += segment.count * width;
  }
}

void unpack(const std::byte* from, size_t width, std::span<const Segment> segments) {
  for (const Segment& segment : segments) {
    if (segment.count > 0) std::memcpy(segment.data, from, segment.count * width);
    from += segment.count * width;
  }
}

/// A packed copy of several segments begins on a fresh cache line after the algorithm's scratch.
size_t packed_offset(size_t scratch) {
  return (scratch + 63) / 64 * 64;
}

}  // namespace

GlooCommunicator::GlooCommunicator(std::shared_ptr<::gloo::transport::Device> device,
                                   const PluginContext& context, std::string prefix,
                                   std::vector<Rank> ranks, int member)
    : mesh_(std::move(device), context, std::move(prefix), std::move(ranks), member),
      worker_(context.ring) {}

GlooCommunicator::~GlooCommunicator() {
  // Otherwise the connections end softly, so that what was sent last still arrives.
  if (!worker_.done()) mesh_.abort();
}

template <class Work>
Ticket GlooCommunicator::run(Lane& lane, size_t scratch_bytes, Work work) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not on a lane that was aborted
  const std::span<std::byte> scratch = lane.scratch(kScratch, scratch_bytes);
  auto job = [this, scratch, &work]() -> Status {
    HORA_TRY(broken_);
    broken_ = mesh_.connect();
    if (broken_.ok()) broken_ = work(operations_++, scratch);
    if (!broken_.ok()) mesh_.close();  // before its memory goes, and so that the others notice
    mesh_.clear();
    return broken_;
  };
  worker_.start([](void* argument) { return (*static_cast<decltype(job)*>(argument))(); }, &job);
  HORA_CO_TRY(co_await lane.settle([this, looks = 0u]() mutable {
    if (worker_.done()) return true;
    if (++looks % kLooksPerWatch == 0) mesh_.watch();
    return false;
  }));
  Status outcome = worker_.take_outcome();
  // Why the lane was aborted says more than that Gloo was interrupted.
  if (!outcome.ok()) HORA_CO_TRY(co_await lane.until([] { return true; }));
  co_return outcome;
}

Ticket GlooCommunicator::allreduce(Lane& lane, uint64_t, std::span<const Segment> segments,
                                   const Reduction& reduction) {
  const size_t count = count_in(segments), width = bytes_of(reduction.dtype);
  const size_t needed = allreduce_scratch(size(), count, reduction.dtype);
  const size_t packed = segments.size() == 1 ? 0 : count * width;
  return run(lane, packed_offset(needed) + packed,
             [=, this](uint64_t slot, std::span<std::byte> scratch) -> Status {
               if (segments.size() == 1)
                 return gloo::allreduce(mesh_, slot, segments[0].data, count, reduction, scratch);
               std::byte* const data = scratch.data() + packed_offset(needed);
               pack(segments, width, data);
               HORA_TRY(gloo::allreduce(mesh_, slot, data, count, reduction, scratch));
               unpack(data, width, segments);
               return {};
             });
}

Ticket GlooCommunicator::reduce_scatter(Lane& lane, uint64_t, const std::byte* input,
                                        std::byte* output, std::span<const size_t> counts,
                                        const Reduction& reduction) {
  const size_t own = counts[static_cast<size_t>(rank())];
  return run(lane, reduce_scatter_scratch(size(), own, reduction.dtype),
             [=, this](uint64_t slot, std::span<std::byte> scratch) {
               return gloo::reduce_scatter(mesh_, slot, input, output, counts, reduction, scratch);
             });
}

Ticket GlooCommunicator::allgather(Lane& lane, uint64_t, const std::byte* input, std::byte* output,
                                   std::span<const size_t> bytes) {
  return run(lane, 0, [=, this](uint64_t slot, std::span<std::byte>) {
    return gloo::allgather(mesh_, slot, input, output, bytes);
  });
}

Ticket GlooCommunicator::alltoall(Lane& lane, uint64_t, const std::byte* input,
                                  std::span<const size_t> send, std::byte* output,
                                  std::span<const size_t> receive) {
  return run(lane, 0, [=, this](uint64_t slot, std::span<std::byte>) {
    return gloo::alltoall(mesh_, slot, input, send, output, receive);
  });
}

Ticket GlooCommunicator::broadcast(Lane& lane, uint64_t, std::span<const Segment> segments,
                                   int root) {
  const size_t bytes = count_in(segments);
  return run(lane, segments.size() == 1 ? 0 : bytes,
             [=, this](uint64_t slot, std::span<std::byte> scratch) -> Status {
               if (segments.size() == 1)
                 return gloo::broadcast(mesh_, slot, segments[0].data, bytes, root);
               if (rank() == root) pack(segments, 1, scratch.data());
               HORA_TRY(gloo::broadcast(mesh_, slot, scratch.data(), bytes, root));
               if (rank() != root) unpack(scratch.data(), 1, segments);
               return {};
             });
}

Ticket GlooCommunicator::barrier(Lane& lane, uint64_t) {
  return run(lane, 0,
             [this](uint64_t slot, std::span<std::byte>) { return gloo::barrier(mesh_, slot); });
}

}  // namespace hora::gloo
