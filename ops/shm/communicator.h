#pragma once

#include <memory>
#include <vector>

#include "ops/backend.h"
#include "ops/shm/group.h"
#include "ops/shm/neighborhood.h"
#include "ops/shm/runs.h"
#include "ops/shm/staging.h"

namespace hora::shm {

/// The collectives, over slots, chunks and arenas (window.h) and progress words (group.h).
/// Allreduce is in allreduce.cc.
///
/// Ownership: keeps the neighborhood alive. Threads: the lane's driver.
class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(std::shared_ptr<Neighborhood> neighborhood, std::shared_ptr<const Group> group,
                  std::shared_ptr<LaneDebts> debts);

  int rank() const override { return static_cast<int>(group_->self); }
  int size() const override { return static_cast<int>(group_->size()); }
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

 private:
  struct Direct;  // the work of each operation, for rounds()
  struct Scatter;
  struct Gather;
  struct Exchange;
  struct Cast;

  Ticket alone(Lane& lane, std::span<const Segment> segments, Reduction reduction);
  Ticket small(Lane& lane, uint64_t tag, std::span<const Segment> segments, Reduction reduction);
  Ticket large(Lane& lane, uint64_t tag, std::span<const Segment> segments, Reduction reduction);
  Ticket push(Lane& lane, Reduction reduction);
  Ticket shared_rounds(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                       Reduction reduction, bool first_staged);
  void push_range(const Reduction& reduction, size_t begin, size_t end);
  void publish_step(uint64_t tag, uint64_t step) const { group_->publish(word_of(tag, step)); }

  template <class Work>
  Ticket whole(Lane& lane, uint64_t tag, size_t rounds, Work work);
  template <class Work>
  Ticket rounds(Lane& lane, uint64_t tag, size_t count, bool first_staged, Work work);

  std::byte* chunk_of(size_t member, size_t round) const {
    return group_->members[member].window->chunks[round % kChunks];
  }
  /// The part of each chunk that goes to, or comes from, one member.
  size_t share_bytes() const { return kChunkBytes / group_->size() / 64 * 64; }

  const std::shared_ptr<Neighborhood> neighborhood_;
  const std::shared_ptr<const Group> group_;
  const std::shared_ptr<LaneDebts> debts_;
  uint64_t operations_ = 0;  ///< small allreduces, which alternate between the slots
  Split split_;
  Staging staging_;
  std::vector<const std::byte*> inputs_;  ///< room for one pointer for each member
  std::vector<std::byte*> outputs_;
};

}  // namespace hora::shm
