// Two ways to the same bits; all members choose alike.
//
//   everyone  all send everything to all, and everybody adds up everything: one message deep
//   owners    each member owns a range: all send it theirs, chunk by chunk; it adds them up as they
//             come and sends the result back to all while the next chunks are on their way
//
// Channel 0 carries what is to be reduced, channel 1 results. A chunk's result comes only after its
// owner has all that it is made of, so it may land in the memory that we send from.

#include "ops/kernels/reduce.h"

#include <algorithm>

#include "ops/cursor.h"
#include "ops/tcp/communicator.h"
#include "ops/tcp/run.h"

namespace hora::tcp {
namespace {

constexpr size_t kLine = 64;
// What a member receives at most by the first way.
constexpr size_t kEveryoneBytes = 1 << 20, kEveryoneBytesNear = 256 << 10;
// How much more it may receive by the first way than by the second, on one host. Elsewhere the
// link tells: the first saves one delay and a message for each peer, but on the wire bytes are
// dear.
constexpr size_t kExtraBytesNear = 96 << 10;
constexpr size_t kLargestChunk = 256 << 10;  // still in the cache when it is reduced
constexpr size_t kSmallestChunk = 32 << 10;
constexpr size_t kChunks = 4;  // of a range, at least, if they do not become too small
// Chunks that may arrive before the first of them is reduced. On one host they are to stay in the
// cache; between hosts one link must not wait for another, since results are behind them.
constexpr size_t kAheadNear = 4, kAhead = 16;
constexpr size_t kArrivedBytes = 16 << 20;  // of all peers, at most, but for the smallest chunks

constexpr size_t rounded(size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

struct Range {
  size_t begin, end;
  size_t bytes() const { return end - begin; }
};

/// A member's part of `bytes`, cut at cache lines.
Range range_of(size_t bytes, size_t member, size_t members) {
  const size_t per = rounded((bytes + members - 1) / members);
  const size_t begin = std::min(bytes, per * member);
  return {begin, std::min(bytes, begin + per)};
}

/// Of an owner's range; the same on every member. Small enough that the first result leaves early.
size_t chunk_of(size_t bytes, size_t members, size_t ahead) {
  const size_t room = kArrivedBytes / ahead / members;
  return std::max(kSmallestChunk, rounded(std::min({kLargestChunk, bytes / kChunks, room})));
}

}  // namespace

struct TcpCommunicator::Everyone {
  TcpCommunicator* self;
  Reduction reduction;
  std::span<const Segment> segments;
  size_t bytes = 0;

  void start(Lane& lane) {
    self->in_.assign(segments, bytes_of(reduction.dtype));
    bytes = self->in_.bytes();
    if (bytes == 0) return;
    const size_t peers = self->members() - 1, stride = rounded(bytes);
    const auto scratch = lane.scratch(kScratch, peers * stride);
    self->arrived_.assign(scratch.data(), scratch.size());
    for (size_t i = 1; i <= peers; ++i) {
      const size_t peer = self->other(i);
      self->send_all(peer, self->in_, 0, bytes);
      self->expect_all(peer, self->arrived_, self->place_of(peer) * stride, bytes);
      self->inputs_[peer] = scratch.data() + self->place_of(peer) * stride;
    }
  }
  bool step() { return false; }
  void finish() {
    self->in_.visit(0, bytes, [&](std::byte* data, size_t piece, size_t at) {
      self->reduce_piece(reduction, data, data, piece, at);
    });
  }
};

struct TcpCommunicator::Owners {
  TcpCommunicator* self;
  Reduction reduction;
  bool gathers;                       ///< allreduce; else reduce_scatter
  std::span<const Segment> segments;  ///< of allreduce
  const std::byte* input = nullptr;   ///< these three of reduce_scatter
  std::byte* output = nullptr;
  std::span<const size_t> counts = {};
  Range own = {};    ///< of in_
  size_t chunk = 0;  ///< bytes
  size_t ahead = 0;  ///< chunks that may arrive early
  std::byte* scratch = nullptr;
  uint32_t reduced = 0;

  size_t chunks() const { return (own.bytes() + chunk - 1) / chunk; }
  Range part(const Range& range, size_t size, size_t index) const {
    const size_t begin = range.begin + index * size;
    return {begin, std::min(range.end, begin + size)};
  }
  Range range_of_member(size_t member) const {
    if (gathers) return range_of(self->in_.bytes(), member, self->members());
    const size_t width = bytes_of(reduction.dtype);
    size_t begin = 0;
    for (size_t i = 0; i < member; ++i) begin += counts[i] * width;
    return {begin, begin + counts[member] * width};
  }

  void start(Lane& lane) {
    const size_t peers = self->members() - 1, width = bytes_of(reduction.dtype);
    if (gathers)
      self->in_.assign(segments, width);
    else
      self->in_.assign(input, sum_of(counts) * width);
    own = range_of_member(self->self());
    ahead = self->near_ ? kAheadNear : kAhead;
    chunk = chunk_of(own.bytes(), self->members(), ahead);
    const auto arrived = lane.scratch(kScratch, peers * ahead * chunk);
    scratch = arrived.data();
    self->arrived_.assign(scratch, arrived.size());
    self->links_->admit(static_cast<uint32_t>(ahead));
    for (size_t i = 1; i <= peers; ++i) {
      const size_t peer = self->other(i);
      for (size_t k = 0; k < chunks(); ++k)
        self->expect(peer, 0, static_cast<uint32_t>(k), self->arrived_, slot(peer, k),
                     part(own, chunk, k).bytes());
      const Range theirs = range_of_member(peer);
      const size_t size = chunk_of(theirs.bytes(), self->members(), ahead);
      for (uint32_t k = 0; k * size < theirs.bytes(); ++k) {
        const Range one = part(theirs, size, k);
        self->send(peer, 0, k, self->in_, one.begin, one.bytes());
        if (gathers) self->expect(peer, 1, k, self->in_, one.begin, one.bytes());
      }
    }
  }
  /// Where a chunk of a peer lies in the scratch memory.
  size_t slot(size_t peer, size_t k) const {
    return ((k % ahead) * (self->members() - 1) + self->place_of(peer)) * chunk;
  }
  bool there(uint32_t k) const {
    for (size_t i = 1; i < self->members(); ++i)
      if (!self->received(self->other(i), 0, k)) return false;
    return true;
  }
  bool step() {
    for (; reduced < chunks() && there(reduced); ++reduced) {
      const Range one = part(own, chunk, reduced);
      for (size_t peer = 0; peer < self->members(); ++peer)
        if (peer != self->self()) self->inputs_[peer] = scratch + slot(peer, reduced);
      self->in_.visit(one.begin, one.end, [&](std::byte* data, size_t piece, size_t at) {
        std::byte* const to = gathers ? data : output + (one.begin - own.begin) + at;
        self->reduce_piece(reduction, data, to, piece, at);
      });
      self->links_->admit(reduced + 1 + static_cast<uint32_t>(ahead));
      for (size_t i = 1; gathers && i < self->members(); ++i)
        self->send(self->other(i), 1, reduced, self->in_, one.begin, one.bytes());
    }
    return false;
  }
  void finish() {}
};

/// Combines `bytes` at `own` with what has come from the others, from `at` on.
void TcpCommunicator::reduce_piece(const Reduction& reduction, std::byte* own, std::byte* to,
                                   size_t bytes, size_t at) {
  for (size_t i = 0; i < members(); ++i) pieces_[i] = i == self() ? own : inputs_[i] + at;
  std::byte* const outputs[] = {to};
  reduce(reduction, pieces_, outputs, bytes / bytes_of(reduction.dtype));
}

Ticket TcpCommunicator::allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                  const Reduction& reduction) {
  const size_t bytes = count_in(segments) * bytes_of(reduction.dtype), peers = members() - 1;
  const size_t extra = members() > 2 ? bytes * peers * (members() - 2) / members() : 0;
  if (bytes * peers <= (near_ ? kEveryoneBytesNear : kEveryoneBytes) &&
      extra <= (near_ ? kExtraBytesNear : links_->bytes_worth_a_step(peers)))
    return run(lane, tag, Everyone{this, reduction, segments});
  return run(lane, tag, Owners{this, reduction, true, segments});
}

Ticket TcpCommunicator::reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input,
                                       std::byte* output, std::span<const size_t> counts,
                                       const Reduction& reduction) {
  return run(lane, tag, Owners{this, reduction, false, {}, input, output, counts});
}

}  // namespace hora::tcp
