#pragma once

#include <array>
#include <memory>
#include <vector>

#include "ops/backend.h"
#include "ops/cursor.h"
#include "ops/hierarchical/layout.h"

namespace hora::hierarchical {

/// What a member reaches others through; null where there is nobody to reach.
struct Links {
  std::unique_ptr<Communicator> inside;  ///< the members of this host
  std::unique_ptr<Communicator> column;  ///< one member of each host
  std::unique_ptr<Communicator> flat;    ///< all members
};

/// The collectives of one process set over hosts.
///
/// Tags: an operation has kTags of its parts' tags. Both links tell operations of a lane apart by
/// tags, so sets that stay within a host go through here, too.
/// Ownership: owns its links. Threads: the lane's driver; abort() as in ops/backend.h.
class HierarchicalCommunicator final : public Communicator {
 public:
  HierarchicalCommunicator(Layout layout, Links links, int lane);

  int rank() const override { return layout_.me; }
  int size() const override { return static_cast<int>(layout_.host_of.size()); }
  Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   const Reduction& reduction) override;
  Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                        std::span<const size_t> counts, const Reduction& reduction) override;
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override;
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override;
  Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments, int root) override;
  Ticket barrier(Lane& lane, uint64_t tag) override;
  void abort() override;

 private:
  static constexpr size_t kMaxChunks = 15;
  static constexpr uint64_t kTags = 32;
  static_assert(2 * kMaxChunks <= kTags);
  static constexpr size_t kDepth = 2;  ///< chunks on their way at once
  static constexpr size_t kChunkBytes = 1 << 20;

  /// An allreduce on its way.
  struct Work {
    Reduction within, between;  ///< the members of a host, and hosts
    Cursor in, out;
    uint64_t tag, inside_tag;
    size_t width, count, per_chunk, chunks;  ///< bytes, elements, elements, number
    size_t scattered = 0, crossed = 0;       ///< chunks that have come so far
    std::array<std::byte*, kDepth> whole{}, shard{};
    Status failed = {};
  };

  bool layered() const { return links_.flat && layout_.hosts < layout_.host_of.size(); }
  Communicator& only() const { return links_.flat ? *links_.flat : *links_.inside; }
  Ticket in_layers(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   Reduction reduction);
  Ticket broadcast_in_layers(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                             size_t root);
  Ticket barrier_in_layers(Lane& lane, uint64_t tag);
  void prepare(uint64_t tag, std::span<const Segment> segments, const Reduction& reduction);
  size_t count_in_chunk(size_t chunk) const;
  size_t shard_of(size_t chunk, size_t index) const;
  Ticket run_inside();
  Ticket run_across();
  Ticket scatter(size_t chunk);
  Ticket gather(size_t chunk);
  Status note(Status status);

  const Layout layout_;
  const Links links_;
  Lane inside_, across_;  ///< both at work within one operation of the lane
  Work work_{{}, {}, Cursor({}, 1), Cursor({}, 1), 0, 0, 0, 0, 0, 0};
  Segment shard_;
  std::vector<size_t> counts_, bytes_;  ///< of each local member's shard of the chunk at hand
};

}  // namespace hora::hierarchical
