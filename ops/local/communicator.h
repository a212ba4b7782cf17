#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ops/backend.h"
#include "ops/bell.h"
#include "ops/local/hub.h"

namespace hora::local {

/// A process set on one lane. See local.h for what holds.
class LocalCommunicator final : public Communicator {
 public:
  /// `seats[i]` and `bells[i]` are member i's.
  LocalCommunicator(std::shared_ptr<Hub> hub, std::vector<Seat*> seats, std::vector<Bell> bells,
                    int rank);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(seats_.size()); }
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
  template <class Work>
  Ticket together(Lane& lane, uint64_t tag, Loan loan, Work work);
  template <class Word>
  bool everyone(Word word, uint64_t number) const;
  bool somebody_works_on(uint64_t number) const;
  void ring_others() const;
  const Loan& loan(size_t member) const { return seats_[member]->loan; }

  void reduce_my_range(const Reduction& reduction);
  void reduce_my_part(std::byte* output, std::span<const size_t> counts,
                      const Reduction& reduction);
  void copy_from_root(std::span<const Segment> segments, size_t root) const;

  const std::shared_ptr<Hub> hub_;  ///< keeps the seats
  const std::vector<Seat*> seats_;
  const std::vector<Bell> bells_;
  const int rank_;
  std::vector<std::byte*> places_;  ///< one for each member: where its next piece lies
  std::vector<const std::byte*> inputs_;
  struct Cursor {
    size_t segment = 0, offset = 0;  ///< in elements
  };
  std::vector<Cursor> cursors_;
};

}  // namespace hora::local
