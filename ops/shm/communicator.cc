#include "ops/shm/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/cursor.h"
#include "ops/kernels/reduce.h"
#include "ops/shm/rounds.h"

namespace hora::shm {
namespace {

void copy_bytes(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

size_t largest(std::span<const size_t> amounts) {
  return amounts.empty() ? 0 : *std::max_element(amounts.begin(), amounts.end());
}

size_t sum_before(std::span<const size_t> amounts, size_t index) {
  const auto head = amounts.first(index);
  return std::accumulate(head.begin(), head.end(), size_t{0});
}

/// Elements [begin, begin + count) of a part.
struct Piece {
  size_t begin, count;
};
Piece piece_of(size_t round, size_t per_round, size_t amount) {
  const size_t begin = std::min(amount, round * per_round);
  return {begin, std::min(per_round, amount - begin)};
}

}  // namespace

ShmCommunicator::ShmCommunicator(std::shared_ptr<Neighborhood> neighborhood,
                                 std::shared_ptr<const Group> group,
                                 std::shared_ptr<LaneDebts> debts)
    : neighborhood_(std::move(neighborhood)),
      group_(std::move(group)),
      debts_(std::move(debts)),
      inputs_(group_->size()),
      outputs_(group_->size()) {}

/// Round k stages the k-th piece of every other member's part; its owner adds them up.
struct ShmCommunicator::Scatter {
  ShmCommunicator* self;
  const std::byte* input;
  std::byte* output;
  std::span<const size_t> counts;
  Reduction reduction;
  size_t width, share, per_round;

  bool fills() const { return true; }
  int source() const { return -1; }
  void fill(size_t round, std::byte* chunk) {
    const std::byte* part = input;
    for (size_t r = 0; r < counts.size(); part += counts[r++] * width) {
      const Piece piece = piece_of(round, per_round, counts[r]);
      if (r != self->group_->self)
        copy_bytes(chunk + r * share, part + piece.begin * width, piece.count * width);
    }
  }
  void drain(size_t round) {
    const size_t me = self->group_->self;
    const Piece piece = piece_of(round, per_round, counts[me]);
    if (piece.count == 0) return;
    const size_t before = sum_before(counts, me);
    for (size_t r = 0; r < counts.size(); ++r)
      self->inputs_[r] =
          r == me ? input + (before + piece.begin) * width : self->chunk_of(r, round) + me * share;
    std::byte* const to[] = {output + piece.begin * width};
    reduce(reduction, self->inputs_, to, piece.count);
  }
};

Ticket ShmCommunicator::reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input,
                                       std::byte* output, std::span<const size_t> counts,
                                       const Reduction& reduction) {
  const size_t width = bytes_of(reduction.dtype);
  const size_t per_round = share_bytes() / width;
  const Scatter work{this, input, output, counts, reduction, width, share_bytes(), per_round};
  return whole(lane, tag, rounds_for(largest(counts), per_round), work);
}

struct ShmCommunicator::Gather {
  ShmCommunicator* self;
  const std::byte* input;
  std::byte* output;
  std::span<const size_t> bytes;

  bool fills() const { return true; }
  int source() const { return -1; }
  void fill(size_t round, std::byte* chunk) {
    const Piece piece = piece_of(round, kChunkBytes, bytes[self->group_->self]);
    copy_bytes(chunk, input + piece.begin, piece.count);
  }
  void drain(size_t round) {
    std::byte* part = output;
    for (size_t r = 0; r < bytes.size(); part += bytes[r++]) {
      const Piece piece = piece_of(round, kChunkBytes, bytes[r]);
      const std::byte* from =
          r == self->group_->self ? input + piece.begin : self->chunk_of(r, round);
      copy_bytes(part + piece.begin, from, piece.count);
    }
  }
};

Ticket ShmCommunicator::allgather(Lane& lane, uint64_t tag, const std::byte* input,
                                  std::byte* output, std::span<const size_t> bytes) {
  const Gather work{this, input, output, bytes};
  return whole(lane, tag, rounds_for(largest(bytes), kChunkBytes), work);
}

/// A member's number of rounds is what it needs itself; see rounds().
struct ShmCommunicator::Exchange {
  ShmCommunicator* self;
  const std::byte* input;
  std::span<const size_t> send;
  std::byte* output;
  std::span<const size_t> receive;
  size_t share;

  bool fills() const { return true; }
  int source() const { return -1; }
  void fill(size_t round, std::byte* chunk) {
    const std::byte* part = input;
    for (size_t r = 0; r < send.size(); part += send[r++]) {
      const Piece piece = piece_of(round, share, send[r]);
      if (r != self->group_->self) copy_bytes(chunk + r * share, part + piece.begin, piece.count);
    }
  }
  void drain(size_t round) {
    const size_t me = self->group_->self;
    const std::byte* mine = input + sum_before(send, me);
    std::byte* part = output;
    for (size_t r = 0; r < receive.size(); part += receive[r++]) {
      const Piece piece = piece_of(round, share, receive[r]);
      const std::byte* from = r == me ? mine + piece.begin : self->chunk_of(r, round) + me * share;
      copy_bytes(part + piece.begin, from, piece.count);
    }
  }
};

Ticket ShmCommunicator::alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                                 std::span<const size_t> send, std::byte* output,
                                 std::span<const size_t> receive) {
  const size_t share = share_bytes();
  const Exchange work{this, input, send, output, receive, share};
  return whole(lane, tag, rounds_for(std::max(largest(send), largest(receive)), share), work);
}

struct ShmCommunicator::Cast {
  ShmCommunicator* self;
  Cursor cursor;
  size_t bytes;
  int root;

  bool fills() const { return root == self->rank(); }
  int source() const { return root; }
  void fill(size_t round, std::byte* chunk) {
    if (!fills()) return;
    cursor.take(
        piece_of(round, kChunkBytes, bytes).count,
        [&](std::byte* data, size_t count, size_t at) { copy_bytes(chunk + at, data, count); });
  }
  void drain(size_t round) {
    if (fills()) return;
    const std::byte* chunk = self->chunk_of(static_cast<size_t>(root), round);
    cursor.take(
        piece_of(round, kChunkBytes, bytes).count,
        [&](std::byte* data, size_t count, size_t at) { copy_bytes(data, chunk + at, count); });
  }
};

Ticket ShmCommunicator::broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                  int root) {
  const size_t bytes = size() == 1 ? 0 : count_in(segments);
  const Cast work{this, Cursor(segments, 1), bytes, root};
  return whole(lane, tag, rounds_for(bytes, kChunkBytes), work);
}

Ticket ShmCommunicator::barrier(Lane& lane, uint64_t tag) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  const Group& group = *group_;
  const uint64_t all = word_of(tag, kFinal);
  group.publish(all);
  HORA_CO_TRY(co_await lane.until(
      [&group, all, next = size_t{0}]() mutable { return group.all_reached(all, next); }));
  co_return Status();
}

}  // namespace hora::shm
