#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/aggregate.h"
#include "ops/backend.h"
#include "ops/lane.h"
#include "runtime/compression.h"
#include "runtime/observer.h"
#include "runtime/operation.h"
#include "runtime/plan_cache.h"
#include "runtime/recycled.h"
#include "runtime/vocabulary.h"

namespace hora {

/// One lane's plans, in order: binds each to this rank's memory, runs it as a coroutine over the
/// lane's own communicators, and tells when it has ended.
///
/// Threads: the token holder. Ownership: operations stay the pool's; from its first slice on, a
/// request of a plan is completed by the lane and by nobody else.
class LaneRunner {
 public:
  struct Context {
    const PlanCache& cache;
    OperationPool& operations;
    Backend& backend;
    Compression& compression;
    Observer& observer;
    Rank me;
    /// The ranks of a set, ascending; null if there is no such set.
    std::function<const std::vector<Rank>*(SetId)> members;
  };
  LaneRunner(int index, const Context& context) : lane_(index), context_(context) {}

  /// Queues a plan. The cache must still hold its items.
  void push(const Plan& plan);

  /// Moves on what can move, for a bounded time. Returns whether anything did.
  bool progress();

  bool idle() const { return !current_ && first_ == queue_.size(); }

  /// Ends the current operation's waits, so that it ends soon; plans not begun end at once.
  void abort(const Status& why);

  struct Ended {
    Seq sequence = 0;
    Status status;
    std::vector<Operation*>
        completed;     ///< whose last slice to end was in this plan; each has its status
    std::string what;  ///< the first tensor's name, for messages
  };
  /// Plans that have ended since the last call, in order; the caller clears it.
  Recycled<Ended>& ended() { return ended_; }

 private:
  /// One slice in this rank's terms.
  struct Part {
    Operation* operation = nullptr;  ///< null: this rank has joined and contributes zeros
    uint64_t first = 0, count = 0;   ///< elements of the operation's tensors, concatenated
    size_t tensors = 0;              ///< adasum: how many of the run's lengths are its own
    BoundChain* chain = nullptr;     ///< null: values as they are
    uint64_t exchange = 0;           ///< of the chain's
    TensorState* state = nullptr;    ///< once it has begun to travel compressed
  };
  struct Run {
    Seq sequence = 0;
    SetId set = 0;
    Op op = Op::kAllreduce;
    Reduction reduction;
    int root = 0;  ///< its number among the members
    Communicator* over = nullptr;
    int64_t agreed_at = 0, begun_at = 0;  ///< 0: has not
    Status refused;                       ///< why there is no communicator
    std::string what;
    std::vector<Part> parts;
    std::vector<Segment> segments;
    std::vector<uint64_t> lengths;  ///< adasum: elements of every tensor of every part
    std::vector<size_t> counts, send, receive;
    std::vector<int64_t> rows;
    std::vector<Slot> slots;
  };

  Ticket execute(Run& run);
  Ticket allreduce(Run& run);
  Ticket compressed(Run& run, std::span<std::byte> zeros);
  Ticket adaptive(Run& run, std::span<std::byte> zeros);
  Ticket broadcast(Run& run);
  Ticket allgather(Run& run);
  Ticket alltoall(Run& run);
  Ticket reduce_scatter(Run& run);

  static void end_exchange(const Part& part);
  static Sharing sharing_of(const Run& run, const BoundChain& chain);
  void add_segments(Run& run, const Part& part, size_t zero_offset, std::span<std::byte> zeros);
  void describe(Run& run, const PlanCache::Item& item);
  void begin(std::unique_ptr<Run> run);
  static bool has_ended(Operation& operation, const Status& slice);
  void finish(const Status& status);
  void count_wire(uint64_t bytes) { context_.observer.metrics.wire_bytes.add(bytes); }
  void count_compressed(uint64_t sent, uint64_t dense) {
    count_wire(sent);
    context_.observer.metrics.compressed_wire_bytes.add(sent);
    context_.observer.metrics.compressed_bytes.add(dense);
  }

  /// Of the lane's scratch slots, below kAggregateScratch.
  static constexpr size_t kZeroSlot = 16, kPackSlot = 17, kUnpackSlot = 18;

  Lane lane_;
  const Context context_;
  std::map<SetId, std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<Run>> queue_, spare_;
  size_t first_ = 0;  ///< of queue_
  std::unique_ptr<Run> current_;
  Recycled<Ended> ended_;
  Status why_;
};

}  // namespace hora
