#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ops/backend.h"
#include "ops/tcp/links.h"
#include "ops/tcp/memory.h"

namespace hora::tcp {

/// The collectives of a process set, over the connections of its lane. Reductions are in reduce.cc,
/// relays in relay.cc.
///
/// Ownership: shares the connections. Threads: the lane's driver.
class TcpCommunicator final : public Communicator {
 public:
  TcpCommunicator(std::shared_ptr<Links> links, std::vector<Rank> ranks, int member);

  int rank() const override { return member_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   const Reduction& reduction) override;
  Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                        std::span<const size_t> counts, const Reduction& reduction) override;
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override;
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override;
  bool relays() const override { return true; }
  Ticket relay(Lane& lane, uint64_t tag, Relay& relay) override;
  Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments, int root) override;
  Ticket barrier(Lane& lane, uint64_t tag) override;

 private:
  struct Everyone;  // the work of each operation, for run()
  struct Owners;
  struct Gather;
  struct Exchange;
  struct Relaying;
  struct Cast;
  struct Barrier;

  /// Runs an operation: work.start(lane) queues messages; work.step() goes on with what has come,
  /// each time that something moved, and tells whether it wants to go on even if nothing moves;
  /// work.finish() when nothing is left to send or receive.
  template <class Work>
  Ticket run(Lane& lane, uint64_t tag, Work work);

  size_t self() const { return static_cast<size_t>(member_); }
  size_t members() const { return ranks_.size(); }
  /// The other members, beginning after this one, so that not all send to member 0 first.
  size_t other(size_t index) const { return (self() + index) % members(); }
  /// A peer's place among the peers.
  size_t place_of(size_t member) const { return member < self() ? member : member - 1; }

  void send(size_t member, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
            size_t bytes) {
    links_->send(ranks_[member], channel, index, memory, begin, bytes);
  }
  void expect(size_t member, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
              size_t bytes) {
    links_->expect(ranks_[member], channel, index, memory, begin, bytes);
  }
  bool received(size_t member, uint32_t channel, uint32_t index) const {
    return links_->received(ranks_[member], channel, index);
  }
  void reduce_piece(const Reduction& reduction, std::byte* own, std::byte* to, size_t bytes,
                    size_t at);
  void send_all(size_t member, const Memory& memory, size_t begin, size_t bytes);
  void expect_all(size_t member, const Memory& memory, size_t begin, size_t bytes);

  static constexpr size_t kScratch = 0;  ///< of the lane's slots

  const std::shared_ptr<Links> links_;
  const std::vector<Rank> ranks_;
  const int member_;
  const bool near_;                                ///< all members are on one host
  Memory in_, out_, arrived_;                      ///< of the operation in progress
  std::vector<const std::byte*> inputs_, pieces_;  ///< room for one pointer for each member
  struct Way {
    uint32_t said = 0, heard = 0, answered = 0;  ///< messages of a relay, to and from a member
  };
  std::vector<Way> ways_;
};

}  // namespace hora::tcp
