#pragma once

#include <atomic>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "ops/backend.h"
#include "ops/cursor.h"

namespace hora::support {

/// A backend around another that counts the bytes that members receive from members of other hosts,
/// each operation by its definition: parts that come from there, and for a reduction the terms.
class CountingBackend final : public Backend {
 public:
  /// `hosts[r]` is the host of rank r; `bytes` is shared by all ranks of a test.
  CountingBackend(std::unique_ptr<Backend> inner, std::vector<int> hosts, Rank rank,
                  std::shared_ptr<std::atomic<uint64_t>> bytes)
      : inner_(std::move(inner)), hosts_(std::move(hosts)), rank_(rank), bytes_(std::move(bytes)) {}

  std::string_view name() const override { return inner_->name(); }
  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    auto made = inner_->communicator(set, ranks, lane);
    if (!made.ok()) return made.status();
    std::vector<bool> away;
    for (const Rank rank : ranks)
      away.push_back(hosts_[static_cast<size_t>(rank)] != hosts_[static_cast<size_t>(rank_)]);
    return std::unique_ptr<Communicator>(
        std::make_unique<Counting>(std::move(made).value(), std::move(away), bytes_));
  }

 private:
  class Counting final : public Communicator {
   public:
    Counting(std::unique_ptr<Communicator> inner, std::vector<bool> away,
             std::shared_ptr<std::atomic<uint64_t>> bytes)
        : inner_(std::move(inner)), away_(std::move(away)), bytes_(std::move(bytes)) {}

    int rank() const override { return inner_->rank(); }
    int size() const override { return inner_->size(); }
    Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                     const Reduction& reduction) override {
      count(each(count_in(segments) * bytes_of(reduction.dtype)));
      return inner_->allreduce(lane, tag, segments, reduction);
    }
    Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                          std::span<const size_t> counts, const Reduction& reduction) override {
      count(each(counts[static_cast<size_t>(rank())] * bytes_of(reduction.dtype)));
      return inner_->reduce_scatter(lane, tag, input, output, counts, reduction);
    }
    Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                     std::span<const size_t> bytes) override {
      count(bytes);
      return inner_->allgather(lane, tag, input, output, bytes);
    }
    Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                    std::byte* output, std::span<const size_t> receive) override {
      count(receive);
      return inner_->alltoall(lane, tag, input, send, output, receive);
    }
    Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                     int root) override {
      if (away_[static_cast<size_t>(root)]) bytes_->fetch_add(count_in(segments));
      return inner_->broadcast(lane, tag, segments, root);
    }
    Ticket barrier(Lane& lane, uint64_t tag) override { return inner_->barrier(lane, tag); }
    void abort() override { inner_->abort(); }

   private:
    std::vector<size_t> each(size_t bytes) const {
      return std::vector<size_t>(away_.size(), bytes);
    }
    void count(std::span<const size_t> from) {
      for (size_t i = 0; i < from.size(); ++i)
        if (away_[i]) bytes_->fetch_add(from[i]);
    }

    const std::unique_ptr<Communicator> inner_;
    const std::vector<bool> away_;  ///< which members are on other hosts
    const std::shared_ptr<std::atomic<uint64_t>> bytes_;
  };

  const std::unique_ptr<Backend> inner_;
  const std::vector<int> hosts_;
  const Rank rank_;
  const std::shared_ptr<std::atomic<uint64_t>> bytes_;
};

}  // namespace hora::support
