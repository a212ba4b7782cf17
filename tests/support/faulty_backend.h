#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "ops/backend.h"

namespace hora::support {

/// Which of one rank's operations fails, counted from 0: before it has run, or after.
struct Faults {
  int fails = -1;  ///< -1: none
  bool after = false;
  int calls = 0;  ///< so far
};

/// Hands operations on and lets one fail. Threads: the lane's driver.
class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(std::unique_ptr<Communicator> real, std::shared_ptr<Faults> faults)
      : real_(std::move(real)), faults_(std::move(faults)) {}
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   const Reduction& reduction) override {
    return checked(real_->allreduce(lane, tag, segments, reduction));
  }
  Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                        std::span<const size_t> counts, const Reduction& reduction) override {
    return checked(real_->reduce_scatter(lane, tag, input, output, counts, reduction));
  }
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override {
    return checked(real_->allgather(lane, tag, input, output, bytes));
  }
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override {
    return checked(real_->alltoall(lane, tag, input, send, output, receive));
  }
  Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments, int root) override {
    return checked(real_->broadcast(lane, tag, segments, root));
  }
  Ticket barrier(Lane& lane, uint64_t tag) override { return checked(real_->barrier(lane, tag)); }

 private:
  Ticket checked(Ticket real) {
    const bool fails = faults_->calls++ == faults_->fails;
    if (!fails || faults_->after) HORA_CO_TRY(co_await real);
    co_return fails ? Status(Code::kPeerLost, "rank 1 was lost (a test)") : Status();
  }
  const std::unique_ptr<Communicator> real_;
  const std::shared_ptr<Faults> faults_;
};

/// A backend whose communicators count and fail together.
class FaultyBackend final : public Backend {
 public:
  FaultyBackend(std::unique_ptr<Backend> inner, std::shared_ptr<Faults> faults)
      : inner_(std::move(inner)), faults_(std::move(faults)) {}
  std::string_view name() const override { return inner_->name(); }
  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    auto made = inner_->communicator(set, ranks, lane);
    if (!made.ok()) return made.status();
    return std::unique_ptr<Communicator>(
        std::make_unique<FaultyCommunicator>(std::move(made).value(), faults_));
  }

 private:
  const std::unique_ptr<Backend> inner_;
  const std::shared_ptr<Faults> faults_;
};

}  // namespace hora::support
