#include "runtime/lane_runner.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "ops/adasum.h"
#include "ops/float_mode.h"

namespace hora {
namespace {

constexpr int kMovesPerTurn = 64;  ///< then control gets its turn

std::byte* bytes_at(const Tensor& tensor, uint64_t element) {
  return static_cast<std::byte*>(tensor.data) + element * bytes_of(tensor.dtype);
}

/// Calls visit(input, output, first, count) for every tensor that [first, first + count) of the
/// operation's concatenated tensors touches; first and count are in that tensor's elements.
template <class Visit>
void for_each_part(const Request& request, uint64_t first, uint64_t count, Visit visit) {
  uint64_t begin = 0;
  for (size_t i = 0; i < request.inputs.size() && count > 0; ++i) {
    const uint64_t size = request.inputs[i].count();
    if (first < begin + size) {
      const uint64_t from = first - begin, here = std::min(count, size - from);
      visit(request.inputs[i], request.outputs[i], from, here);
      first += here;
      count -= here;
    }
    begin += size;
  }
}

int64_t rows_of(const Tensor& tensor) {
  return tensor.shape.empty() ? 1 : tensor.shape[0];
}

size_t row_bytes_of(const Tensor& tensor) {
  size_t elements = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i) elements *= static_cast<size_t>(tensor.shape[i]);
  return elements * bytes_of(tensor.dtype);
}

/// Member `index`'s share of `rows`: the first `rows % size` members have one more.
int64_t share_of(int64_t rows, int size, int index) {
  return rows / size + (index < rows % size ? 1 : 0);
}

/// Gives `output` memory for `rows` rows if the caller did not, and its final shape.
Status allocate_rows(const Tensor& input, int64_t rows, Tensor& output, Outcome& outcome) {
  Shape shape = input.shape.empty() ? Shape{1} : input.shape;
  shape[0] = rows;
  if (output.data == nullptr) {
    const size_t bytes = count_of(shape) * bytes_of(input.dtype);
    Buffer buffer{std::unique_ptr<void, Buffer::Free>(std::malloc(std::max<size_t>(bytes, 1))),
                  shape, input.dtype};
    if (!buffer.data)
      return Status(Code::kOutOfMemory, fmt::format("no memory for {} bytes of result", bytes));
    output.data = buffer.data.get();
    outcome.outputs.push_back(std::move(buffer));
  }
  output.shape = std::move(shape);
  return {};
}

}  // namespace

void LaneRunner::push(const Plan& plan) {
  std::unique_ptr<Run> run = spare_.empty() ? std::make_unique<Run>() : std::move(spare_.back());
  if (!spare_.empty()) spare_.pop_back();
  run->sequence = plan.seq;
  run->set = plan.set;
  run->agreed_at = context_.observer.now();
  run->begun_at = 0;
  run->parts.clear();
  run->segments.clear();
  run->lengths.clear();
  for (const Slice& slice : plan.slices) {
    const auto* item = context_.cache.find(slice.id);
    HORA_CHECK(item != nullptr, "a plan names an item that is not in the cache");
    const Signature& signature = item->signature;
    if (run->parts.empty()) describe(*run, *item);
    Part part;
    part.operation = slice.handle ? context_.operations.find(slice.handle) : nullptr;
    if (part.operation && part.operation->done()) part.operation = nullptr;  // a slice had failed
    if (part.operation) {
      context_.observer.agreed(*part.operation, plan.seq, slice.count * bytes_of(signature.dtype));
      part.operation->handed = true;
      part.operation->all_handed = slice.last;
      ++part.operation->running;
    }
    part.first = slice.first;
    part.count = slice.count;
    if (signature.op == Op::kAllreduce && !signature.chain.empty()) {
      part.chain = context_.compression.bind(plan.set, item->name, signature,
                                             static_cast<int>(context_.members(plan.set)->size()),
                                             run->over ? run->over->layers().hosts : 1);
      part.exchange = part.chain->exchanges.plan(slice.last);
    }
    if (signature.reduce == ReduceOp::kAdasum) {
      part.tensors = signature.shapes.size();
      for (const Shape& shape : signature.shapes) run->lengths.push_back(count_of(shape));
    }
    run->parts.push_back(part);
  }
  if (why_.ok()) {
    queue_.push_back(std::move(run));
    return;
  }
  current_ = std::move(run);
  finish(why_);
}

bool LaneRunner::progress() {
  const FloatMode mode;
  bool moved = false;
  for (int i = 0; i < kMovesPerTurn; ++i) {
    if (!current_) {
      if (first_ == queue_.size()) return moved;
      std::unique_ptr<Run> next = std::move(queue_[first_++]);
      if (first_ == queue_.size()) {
        queue_.clear();
        first_ = 0;
      }
      begin(std::move(next));
    } else if (!lane_.progress()) {
      return moved;
    }
    moved = true;
    if (lane_.idle()) finish(lane_.outcome());
  }
  return moved;
}

void LaneRunner::begin(std::unique_ptr<Run> run) {
  current_ = std::move(run);
  if (!why_.ok()) return;  // finish() follows: the lane is idle and its outcome is taken below
  const BoundChain* const chain = current_->parts[0].chain;
  const auto how = static_cast<uint8_t>(chain ? chain->how : Aggregation::kDense);
  current_->begun_at = context_.observer.begun(current_->sequence, lane_.index(), current_->op, how,
                                               current_->agreed_at);
  lane_.start(execute(*current_));
}

bool LaneRunner::has_ended(Operation& operation, const Status& slice) {
  if (operation.status.ok()) operation.status = slice;
  --operation.running;
  return operation.running == 0 && (operation.all_handed || !operation.status.ok());
}

/// What all slices of an exchange have seen alike changes when none of them runs any more.
void LaneRunner::end_exchange(const Part& part) {
  if (!part.state) return;
  ++part.state->step;
  if (part.operation && part.operation->request.lr > 0)
    part.state->rate = part.operation->request.lr;
}

void LaneRunner::finish(const Status& status) {
  Ended& ended = ended_.next();
  ended.completed.clear();
  ended.sequence = current_->sequence;
  ended.status = !status.ok() ? status : why_;
  ended.what = current_->what;
  uint64_t elements = 0;
  for (const Part& part : current_->parts) {
    elements += part.count;
    if (part.chain && part.chain->exchanges.end(part.exchange)) end_exchange(part);
    if (part.operation && has_ended(*part.operation, ended.status))
      ended.completed.push_back(part.operation);
  }
  context_.observer.ended(current_->sequence, ended.status.code(),
                          elements * bytes_of(current_->reduction.dtype), current_->parts.size(),
                          current_->begun_at);
  spare_.push_back(std::move(current_));
}

void LaneRunner::abort(const Status& why) {
  if (!why_.ok()) return;
  why_ = why;
  lane_.abort(why);
  for (auto& [set, communicator] : communicators_) communicator->abort();
}

/// What all slices of a plan have in common. The set is known now; it may be gone when the plan
/// runs.
void LaneRunner::describe(Run& run, const PlanCache::Item& item) {
  const Signature& signature = item.signature;
  run.op = signature.op;
  run.reduction = {signature.dtype, signature.reduce, signature.prescale, signature.postscale};
  run.what.assign(item.name);
  const auto* ranks = context_.members(run.set);
  HORA_CHECK(ranks != nullptr, "a plan for a set that does not exist");
  run.root = static_cast<int>(std::lower_bound(ranks->begin(), ranks->end(), signature.root) -
                              ranks->begin());
  run.refused = {};
  auto& communicator = communicators_[run.set];
  if (!communicator) {
    auto made = context_.backend.communicator(run.set, *ranks, lane_.index());
    if (made.ok())
      communicator = std::move(made).value();
    else
      run.refused = Status(Code::kInternal, made.status().message());
  }
  run.over = communicator.get();
}

Ticket LaneRunner::execute(Run& run) {
  if (!run.over) co_return run.refused;
  switch (run.op) {
    case Op::kAllreduce:
      co_return co_await allreduce(run);
    case Op::kBroadcast:
      co_return co_await broadcast(run);
    case Op::kAllgather:
      co_return co_await allgather(run);
    case Op::kAlltoall:
      co_return co_await alltoall(run);
    case Op::kReduceScatter:
      co_return co_await reduce_scatter(run);
    default:
      co_return Status(Code::kInternal, "an operation without data reached a lane");
  }
}

/// This rank's memory for one slice, as in-place segments; where it has joined, zeros.
void LaneRunner::add_segments(Run& run, const Part& part, size_t zero_offset,
                              std::span<std::byte> zeros) {
  if (!part.operation) {
    run.segments.push_back({zeros.data() + zero_offset, part.count});
    return;
  }
  for_each_part(part.operation->request, part.first, part.count,
                [&](const Tensor& input, const Tensor& output, uint64_t from, uint64_t count) {
                  std::byte* to = bytes_at(output, from);
                  if (input.data != output.data)
                    std::memcpy(to, bytes_at(input, from), count * bytes_of(input.dtype));
                  run.segments.push_back({to, count});
                });
}

Ticket LaneRunner::allreduce(Run& run) {
  Communicator& over = *run.over;
  const size_t width = bytes_of(run.reduction.dtype);
  uint64_t total = 0, missing = 0;
  for (const Part& part : run.parts) {
    total += part.count;
    if (!part.operation) missing += part.count;
  }
  if (total == 0) co_return Status();
  const std::span<std::byte> zeros = lane_.scratch(kZeroSlot, missing * width);
  if (missing > 0) std::memset(zeros.data(), 0, zeros.size());
  if (run.reduction.op == ReduceOp::kAdasum) co_return co_await adaptive(run, zeros);
  if (run.parts[0].chain && run.parts[0].chain->how != Aggregation::kDense)
    co_return co_await compressed(run, zeros);
  size_t used = 0;
  for (const Part& part : run.parts) {
    add_segments(run, part, used, zeros);
    if (!part.operation) used += part.count * width;
  }
  const auto size = static_cast<uint64_t>(over.size());
  count_wire(2 * (size - 1) * total * width / size);
  co_return co_await over.allreduce(lane_, Tag::of(run.sequence, 0), run.segments, run.reduction);
}

// Tensors are weighed one by one, so where this rank has joined the zeros need their bounds, too.
Ticket LaneRunner::adaptive(Run& run, std::span<std::byte> zeros) {
  uint64_t total = 0;
  auto length = run.lengths.begin();
  for (const Part& part : run.parts) {
    total += part.count;
    if (part.operation) add_segments(run, part, 0, zeros);
    for (size_t i = 0; i < part.tensors; ++i, ++length) {
      if (part.operation || *length == 0) continue;
      run.segments.push_back({zeros.data(), *length});
      zeros = zeros.subspan(*length * bytes_of(run.reduction.dtype));
    }
  }
  const auto size = static_cast<uint64_t>(run.over->size());
  count_wire(2 * (size - 1) * total * bytes_of(run.reduction.dtype) / size);
  co_return co_await adasum(lane_, *run.over, run.sequence, run.segments, run.reduction);
}

/// Who shares a chain's exchange, and this rank among them: members, or hosts and, of each, the
/// member that has the same shard.
Sharing LaneRunner::sharing_of(const Run& run, const BoundChain& chain) {
  Sharing sharing;
  sharing.recodes = chain.how == Aggregation::kRecode;
  sharing.averages = run.reduction.op == ReduceOp::kAverage;
  sharing.rank = run.over->rank();
  sharing.size = run.over->size();
  if (!chain.between_hosts) return sharing;
  const Layers layers = run.over->layers();
  const Extent& extent = chain.codec->extent();
  sharing.rank = layers.host;
  sharing.size = layers.hosts;
  sharing.shard = shard_of(extent.id, extent.count(), granule_of(*chain.codec, chain.down.get()),
                           layers.columns, layers.column);
  return sharing;
}

Ticket LaneRunner::compressed(Run& run, std::span<std::byte> zeros) {
  Communicator& over = *run.over;
  const size_t width = bytes_of(run.reduction.dtype);
  for (const Part& part : run.parts)
    HORA_CO_TRY(co_await lane_.until([&part] { return part.chain->is_turn_of(part.exchange); }));
  run.slots.clear();
  const Aggregation how = run.parts[0].chain->how;
  size_t used = 0;
  for (Part& part : run.parts) {
    BoundChain& chain = *part.chain;
    const Sharing sharing = sharing_of(run, chain);
    TensorState& state = context_.compression.states().get(run.set, chain.name, *chain.codec,
                                                           chain.chain, sharing, chain.down.get());
    part.state = &state;
    Compression::begin_exchange(chain, state.step);
    Slot& slot = run.slots.emplace_back();
    slot.codec = chain.codec.get();
    slot.down = chain.down.get();
    slot.tensor = chain.name;
    slot.dtype = run.reduction.dtype;
    slot.first = part.first;
    slot.count = part.count;
    slot.mine = &state.mine;
    slot.owned = &state.owned;
    slot.step.seed = context_.compression.seed();
    slot.step.step = state.step;
    slot.step.rank = sharing.rank;
    slot.step.size = sharing.size;
    if (part.operation) {
      slot.input = bytes_at(part.operation->request.inputs[0], part.first);
      slot.result = bytes_at(part.operation->request.outputs[0], part.first);
    } else {
      slot.input = slot.result = zeros.data() + used;
      used += part.count * width;
    }
    const float rate = part.operation ? part.operation->request.lr : 0;
    if (rate > 0 && state.rate > 0) slot.step.rate_ratio = state.rate / rate;
  }
  uint64_t sent = 0, dense = 0;
  const Combine combine{run.reduction.op, run.reduction.prescale, run.reduction.postscale,
                        run.parts[0].chain->degrees, &sent};
  Status status;
  if (run.parts[0].chain->between_hosts) {
    const Layers layers = over.layers();
    for (const Slot& slot : run.slots) {
      const Slot share = between_hosts(slot, layers);
      dense += wire_bytes(Aggregation::kDense, {&share, 1}, layers.hosts);
    }
    status = co_await aggregate_between_hosts(lane_, over, run.sequence, how, run.slots, combine);
  } else {
    dense = wire_bytes(Aggregation::kDense, run.slots, over.size());
    status = co_await aggregate(lane_, over, run.sequence, how, run.slots, combine);
  }
  count_compressed(sent, dense);
  co_return status;
}

Ticket LaneRunner::broadcast(Run& run) {
  Communicator& over = *run.over;
  uint64_t bytes = 0;
  for (const Part& part : run.parts) {
    for_each_part(part.operation->request, part.first, part.count,
                  [&](const Tensor& input, const Tensor& output, uint64_t from, uint64_t count) {
                    const size_t length = count * bytes_of(input.dtype);
                    std::byte* to = bytes_at(output, from);
                    if (run.root == over.rank() && input.data != output.data)
                      std::memcpy(to, bytes_at(input, from), length);
                    run.segments.push_back({to, length});
                    bytes += length;
                  });
  }
  if (bytes == 0) co_return Status();
  if (run.root == over.rank()) count_wire(bytes * static_cast<uint64_t>(over.size() - 1));
  co_return co_await over.broadcast(lane_, Tag::of(run.sequence, 0), run.segments, run.root);
}

// The first exchange is every member's row counts, one for each tensor of a group; then all know
// all sizes. The parts of a group travel as one.
Ticket LaneRunner::allgather(Run& run) {
  Communicator& over = *run.over;
  Request& request = run.parts[0].operation->request;
  Outcome& outcome = run.parts[0].operation->outcome;
  const auto size = static_cast<size_t>(over.size()), parts = request.inputs.size();
  run.rows.resize((size + 1) * parts);
  for (size_t i = 0; i < parts; ++i) run.rows[size * parts + i] = rows_of(request.inputs[i]);
  run.counts.assign(size, parts * sizeof(int64_t));
  HORA_CO_TRY(co_await over.allgather(lane_, Tag::of(run.sequence, 0),
                                      reinterpret_cast<std::byte*>(&run.rows[size * parts]),
                                      reinterpret_cast<std::byte*>(run.rows.data()), run.counts));
  std::fill(run.counts.begin(), run.counts.end(), 0);
  size_t mine = 0, total = 0;
  for (size_t i = 0; i < parts; ++i) {
    int64_t rows = 0;
    for (size_t r = 0; r < size; ++r) {
      rows += run.rows[r * parts + i];
      run.counts[r] +=
          static_cast<size_t>(run.rows[r * parts + i]) * row_bytes_of(request.inputs[i]);
    }
    mine += request.inputs[i].bytes();
    HORA_CO_TRY(allocate_rows(request.inputs[i], rows, request.outputs[i], outcome));
  }
  total = std::accumulate(run.counts.begin(), run.counts.end(), size_t{0});
  count_wire(mine * (size - 1));
  if (total == 0) co_return Status();
  if (parts == 1)
    co_return co_await over.allgather(lane_, Tag::of(run.sequence, 1),
                                      static_cast<std::byte*>(request.inputs[0].data),
                                      static_cast<std::byte*>(request.outputs[0].data), run.counts);
  std::byte* packed = lane_.scratch(kPackSlot, mine).data();
  std::byte* gathered = lane_.scratch(kUnpackSlot, total).data();
  for (size_t i = 0, at = 0; i < parts; at += request.inputs[i++].bytes())
    if (request.inputs[i].bytes() > 0)
      std::memcpy(packed + at, request.inputs[i].data, request.inputs[i].bytes());
  HORA_CO_TRY(
      co_await over.allgather(lane_, Tag::of(run.sequence, 1), packed, gathered, run.counts));
  run.send.assign(parts, 0);  // bytes of each output filled so far
  for (size_t r = 0; r < size; ++r) {
    for (size_t i = 0; i < parts; ++i) {
      const size_t bytes =
          static_cast<size_t>(run.rows[r * parts + i]) * row_bytes_of(request.inputs[i]);
      if (bytes > 0)
        std::memcpy(static_cast<std::byte*>(request.outputs[i].data) + run.send[i], gathered,
                    bytes);
      run.send[i] += bytes;
      gathered += bytes;
    }
  }
  co_return Status();
}

Ticket LaneRunner::alltoall(Run& run) {
  Communicator& over = *run.over;
  Operation& operation = *run.parts[0].operation;
  Request& request = operation.request;
  const auto size = static_cast<size_t>(over.size());
  const Tensor& input = request.inputs[0];
  const size_t row = row_bytes_of(input);
  run.rows.resize(2 * size);
  int64_t* const send_rows = run.rows.data();
  int64_t* const receive_rows = send_rows + size;
  for (size_t r = 0; r < size; ++r)
    send_rows[r] =
        request.splits.empty() ? rows_of(input) / static_cast<int64_t>(size) : request.splits[r];
  run.counts.assign(size, sizeof(int64_t));
  HORA_CO_TRY(co_await over.alltoall(lane_, Tag::of(run.sequence, 0),
                                     reinterpret_cast<std::byte*>(send_rows), run.counts,
                                     reinterpret_cast<std::byte*>(receive_rows), run.counts));
  run.send.resize(size);
  run.receive.resize(size);
  int64_t rows = 0;
  for (size_t r = 0; r < size; ++r) {
    run.send[r] = static_cast<size_t>(send_rows[r]) * row;
    run.receive[r] = static_cast<size_t>(receive_rows[r]) * row;
    rows += receive_rows[r];
  }
  operation.outcome.received_splits.assign(receive_rows, receive_rows + size);
  HORA_CO_TRY(allocate_rows(input, rows, request.outputs[0], operation.outcome));
  count_wire(std::accumulate(run.send.begin(), run.send.end(), size_t{0}) -
             run.send[static_cast<size_t>(over.rank())]);
  co_return co_await over.alltoall(lane_, Tag::of(run.sequence, 1),
                                   static_cast<std::byte*>(input.data), run.send,
                                   static_cast<std::byte*>(request.outputs[0].data), run.receive);
}

// A group is packed so that each member's rows of all tensors lie together.
Ticket LaneRunner::reduce_scatter(Run& run) {
  Communicator& over = *run.over;
  Operation& operation = *run.parts[0].operation;
  Request& request = operation.request;
  const int size = over.size();
  const size_t width = bytes_of(run.reduction.dtype), parts = request.inputs.size();
  run.counts.assign(static_cast<size_t>(size), 0);
  size_t total = 0;
  for (size_t i = 0; i < parts; ++i) {
    const Tensor& input = request.inputs[i];
    for (int r = 0; r < size; ++r)
      run.counts[static_cast<size_t>(r)] +=
          static_cast<size_t>(share_of(rows_of(input), size, r)) * row_bytes_of(input) / width;
    total += input.count();
    HORA_CO_TRY(allocate_rows(input, share_of(rows_of(input), size, over.rank()),
                              request.outputs[i], operation.outcome));
  }
  count_wire(total * width / static_cast<size_t>(size) * static_cast<size_t>(size - 1));
  if (total == 0) co_return Status();
  if (parts == 1)
    co_return co_await over.reduce_scatter(
        lane_, Tag::of(run.sequence, 0), static_cast<std::byte*>(request.inputs[0].data),
        static_cast<std::byte*>(request.outputs[0].data), run.counts, run.reduction);
  std::byte* const packed = lane_.scratch(kPackSlot, total * width).data();
  std::byte* const reduced =
      lane_.scratch(kUnpackSlot, run.counts[static_cast<size_t>(over.rank())] * width).data();
  run.send.assign(parts, 0);  // bytes of each input packed so far
  size_t at = 0;
  for (int r = 0; r < size; ++r) {
    for (size_t i = 0; i < parts; ++i) {
      const Tensor& input = request.inputs[i];
      const size_t bytes =
          static_cast<size_t>(share_of(rows_of(input), size, r)) * row_bytes_of(input);
      if (bytes > 0)
        std::memcpy(packed + at, static_cast<std::byte*>(input.data) + run.send[i], bytes);
      run.send[i] += bytes;
      at += bytes;
    }
  }
  HORA_CO_TRY(co_await over.reduce_scatter(lane_, Tag::of(run.sequence, 0), packed, reduced,
                                           run.counts, run.reduction));
  at = 0;
  for (size_t i = 0; i < parts; ++i) {
    const size_t bytes = request.outputs[i].bytes();
    if (bytes > 0) std::memcpy(request.outputs[i].data, reduced + at, bytes);
    at += bytes;
  }
  co_return Status();
}

}  // namespace hora
