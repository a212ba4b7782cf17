#pragma once

#include <memory>
#include <vector>

#include "ops/backend.h"
#include "ops/cursor.h"
#include "ops/hierarchical/blocks.h"
#include "ops/hierarchical/hierarchical.h"
#include "ops/hierarchical/layout.h"
#include "ops/hierarchical/pipeline.h"

namespace hora::hierarchical {

/// What a member reaches others through; null where there is nobody to reach.
struct Links {
  std::unique_ptr<Communicator> inside;  ///< the members of this host
  std::unique_ptr<Communicator> column;  ///< one member of each host
  std::unique_ptr<Communicator> flat;    ///< all members
};

/// The collectives of one process set over hosts. The stages of allreduce are in allreduce.cc,
/// those of reduce_scatter and allgather in parts.cc.
///
/// Tags: an operation has kTags of its parts' tags. Both links tell operations of a lane apart by
/// tags, so sets that stay within a host go through here, too.
/// Ownership: owns its links. Threads: the lane's driver; abort() as in ops/backend.h.
class HierarchicalCommunicator final : public Communicator {
 public:
  HierarchicalCommunicator(Layout layout, Links links, const Costs& costs, int lane);

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
  Layers layers() override;
  void abort() override;

 private:
  static constexpr uint64_t kTags = 32;
  static_assert(2 * kMostChunks <= kTags);

  struct Sum;  // the stages of each operation
  struct Scatter;
  struct Gather;
  struct Cast;

  size_t me() const { return static_cast<size_t>(layout_.me); }
  size_t host() const { return layout_.host_of[me()]; }
  /// Has a piece of each chunk to carry to other hosts and back.
  bool crosses() const { return layout_.local_index < layout_.columns; }
  bool layered() const { return links_.flat && layout_.hosts < layout_.host_of.size(); }
  Communicator& only() const { return links_.flat ? *links_.flat : *links_.inside; }

  bool pays(Collective collective, size_t bytes) const;
  bool pays(Collective collective, size_t bytes, const Reduction& reduction) const;
  size_t chunks_of(Collective collective, size_t bytes) const;
  Reduction within(Reduction reduction) const;
  Reduction between(Reduction reduction) const;

  Ticket sum_in_layers(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                       Reduction reduction);
  Ticket scatter_in_layers(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                           std::span<const size_t> counts, Reduction reduction);
  Ticket gather_in_layers(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                          std::span<const size_t> bytes);
  Ticket broadcast_in_layers(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                             size_t root);
  Ticket barrier_in_layers(Lane& lane, uint64_t tag);

  const Layout layout_;
  const Links links_;
  const Topology given_, measured_;
  Pipeline pipeline_;
  Blocks blocks_;
  // Of the operation in progress: what members of this host, and hosts, have of a chunk.
  std::vector<size_t> local_in_, local_out_, column_;
  std::vector<Segment> inside_, across_;
};

}  // namespace hora::hierarchical
