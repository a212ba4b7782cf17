#include "ops/delayed/delayed.h"

#include <string>
#include <utility>

#include "ops/delayed/worker.h"

namespace hora::delayed {
namespace {

class DelayedCommunicator final : public Communicator {
 public:
  DelayedCommunicator(std::unique_ptr<Communicator> inner, int lane, uint64_t seed, Bell bell)
      : inner_(std::move(inner)), worker_(lane, seed, bell) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   const Reduction& reduction) override {
    return later(lane, inner_->allreduce(worker_.lane(), tag, segments, reduction));
  }
  Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                        std::span<const size_t> counts, const Reduction& reduction) override {
    return later(lane,
                 inner_->reduce_scatter(worker_.lane(), tag, input, output, counts, reduction));
  }
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override {
    return later(lane, inner_->allgather(worker_.lane(), tag, input, output, bytes));
  }
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override {
    return later(lane, inner_->alltoall(worker_.lane(), tag, input, send, output, receive));
  }
  Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments, int root) override {
    return later(lane, inner_->broadcast(worker_.lane(), tag, segments, root));
  }
  Ticket barrier(Lane& lane, uint64_t tag) override {
    return later(lane, inner_->barrier(worker_.lane(), tag));
  }
  void abort() override { inner_->abort(); }

 private:
  // The tensors are the worker's until it has finished, abort or not.
  Ticket later(Lane& lane, Ticket inner) {
    worker_.submit(std::move(inner));
    const auto finished = [this] { return worker_.finished(); };
    const Status status = co_await lane.until(finished);
    if (!status.ok()) {
      worker_.cancel(status);
      HORA_CO_TRY(co_await lane.settle(finished));
      co_return status;
    }
    co_return worker_.outcome();
  }

  const std::unique_ptr<Communicator> inner_;
  Worker worker_;
};

class DelayedBackend final : public Backend {
 public:
  DelayedBackend(std::unique_ptr<Backend> inner, uint64_t seed, Bell bell)
      : inner_(std::move(inner)),
        name_("delayed " + std::string(inner_->name())),
        seed_(seed),
        bell_(bell) {}

  std::string_view name() const override { return name_; }
  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    auto inner = inner_->communicator(set, ranks, lane);
    if (!inner.ok()) return inner.status();
    const uint64_t seed = seed_ ^ (uint64_t{set} << 32) ^ static_cast<uint64_t>(lane);
    return std::unique_ptr<Communicator>(
        std::make_unique<DelayedCommunicator>(std::move(inner).value(), lane, seed, bell_));
  }
  Result<std::span<std::byte>> arena(size_t bytes) override { return inner_->arena(bytes); }

 private:
  const std::unique_ptr<Backend> inner_;
  const std::string name_;
  const uint64_t seed_;
  const Bell bell_;
};

}  // namespace

std::unique_ptr<Backend> wrap(std::unique_ptr<Backend> inner, uint64_t seed, Bell bell) {
  return std::make_unique<DelayedBackend>(std::move(inner), seed, bell);
}

}  // namespace hora::delayed
