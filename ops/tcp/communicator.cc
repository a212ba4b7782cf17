#include "ops/tcp/communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/tcp/run.h"

namespace hora::tcp {
namespace {

constexpr size_t kSmallestPiece = 64 << 10;  // not worth another stream
constexpr size_t kLargestPiece = 256 << 10;
constexpr size_t kPieces = 8;
constexpr size_t kStarMembers = 8;       // of so few, one may send to all others
constexpr size_t kChainBytes = 1 << 20;  // from here a broadcast is all about bandwidth
constexpr size_t kChainMembers = 16;     // of more, the way through all takes too long

/// Of a message that may use several streams: a young connection carries little at first.
size_t piece_of(size_t bytes) {
  return std::clamp((bytes + kPieces - 1) / kPieces, kSmallestPiece, kLargestPiece);
}

void copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

}  // namespace

TcpCommunicator::TcpCommunicator(std::shared_ptr<Links> links, std::vector<Rank> ranks, int member)
    : links_(std::move(links)),
      ranks_(std::move(ranks)),
      member_(member),
      near_(std::all_of(ranks_.begin(), ranks_.end(),
                        [this](Rank rank) { return links_->near(rank); })),
      inputs_(ranks_.size()),
      pieces_(ranks_.size()),
      ways_(ranks_.size()) {}

/// One message of any size, in pieces that use all streams if it is large; none if it is empty.
void TcpCommunicator::send_all(size_t member, const Memory& memory, size_t begin, size_t bytes) {
  const size_t piece = piece_of(bytes);
  uint32_t index = 0;
  for (size_t at = 0; at < bytes; at += piece)
    send(member, 0, index++, memory, begin + at, std::min(piece, bytes - at));
}

void TcpCommunicator::expect_all(size_t member, const Memory& memory, size_t begin, size_t bytes) {
  const size_t piece = piece_of(bytes);
  uint32_t index = 0;
  for (size_t at = 0; at < bytes; at += piece)
    expect(member, 0, index++, memory, begin + at, std::min(piece, bytes - at));
}

struct TcpCommunicator::Gather {
  TcpCommunicator* self;
  const std::byte* input;
  std::byte* output;
  std::span<const size_t> bytes;

  void start(Lane&) {
    const size_t me = self->self();
    self->in_.assign(input, bytes[me]);
    self->out_.assign(output, sum_of(bytes));
    for (size_t i = 1; i < self->members(); ++i)
      self->send_all(self->other(i), self->in_, 0, bytes[me]);
    size_t at = 0;
    for (size_t r = 0; r < self->members(); at += bytes[r++])
      if (r != me) self->expect_all(r, self->out_, at, bytes[r]);
  }
  bool step() { return false; }
  void finish() {
    const size_t me = self->self();
    copy(output + sum_of(bytes.first(me)), input, bytes[me]);
  }
};

Ticket TcpCommunicator::allgather(Lane& lane, uint64_t tag, const std::byte* input,
                                  std::byte* output, std::span<const size_t> bytes) {
  return run(lane, tag, Gather{this, input, output, bytes});
}

struct TcpCommunicator::Exchange {
  TcpCommunicator* self;
  const std::byte* input;
  std::span<const size_t> send;
  std::byte* output;
  std::span<const size_t> receive;

  void start(Lane&) {
    const size_t me = self->self();
    self->in_.assign(input, sum_of(send));
    self->out_.assign(output, sum_of(receive));
    for (size_t i = 1; i < self->members(); ++i) {
      const size_t peer = self->other(i);
      self->send_all(peer, self->in_, sum_of(send.first(peer)), send[peer]);
      self->expect_all(peer, self->out_, sum_of(receive.first(peer)), receive[peer]);
    }
    copy(output + sum_of(receive.first(me)), input + sum_of(send.first(me)), send[me]);
  }
  bool step() { return false; }
  void finish() {}
};

Ticket TcpCommunicator::alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                                 std::span<const size_t> send, std::byte* output,
                                 std::span<const size_t> receive) {
  return run(lane, tag, Exchange{this, input, send, output, receive});
}

/// Along a tree, piece by piece. Members are counted from the root:
///
///   star    few members, few bytes: the root sends to all
///   chain   few members, many bytes: each sends to the next
///   binary  many members, many bytes: v sends to 2v + 1 and 2v + 2
///   binomial  many members, few bytes: v sends to v + 2^k for the 2^k below v's lowest set bit
struct TcpCommunicator::Cast {
  TcpCommunicator* self;
  std::span<const Segment> segments;
  int root;
  size_t piece = 0, pieces = 0, parent = 0;
  uint32_t forwarded = 0;

  size_t place() const {
    return (self->self() + self->members() - static_cast<size_t>(root)) % self->members();
  }
  size_t member_at(size_t at) const { return (at + static_cast<size_t>(root)) % self->members(); }
  bool is_root() const { return self->rank() == root; }

  /// Calls visit(place) for each child; gives the parent's place.
  template <class Visit>
  size_t tree(Visit&& visit) const {
    const size_t v = place(), n = self->members();
    const bool many = self->in_.bytes() >= kChainBytes;
    if (!many && n <= kStarMembers) {
      for (size_t child = 1; v == 0 && child < n; ++child) visit(child);
      return 0;
    }
    if (many && n <= kChainMembers) {
      if (v + 1 < n) visit(v + 1);
      return v - (v > 0);
    }
    if (many) {
      for (size_t child = 2 * v + 1; child <= 2 * v + 2 && child < n; ++child) visit(child);
      return v > 0 ? (v - 1) / 2 : 0;
    }
    const size_t lowest = v == 0 ? n : v & (~v + 1);
    for (size_t step = 1; step < lowest && v + step < n; step *= 2) visit(v + step);
    return v == 0 ? 0 : v - lowest;
  }

  void start(Lane&) {
    self->in_.assign(segments, 1);
    const size_t bytes = self->in_.bytes();
    if (self->members() == 1 || bytes == 0) return;
    piece = piece_of(bytes);
    pieces = (bytes + piece - 1) / piece;
    parent = member_at(tree([](size_t) {}));
    if (!is_root()) self->expect_all(parent, self->in_, 0, bytes);
  }
  bool step() {
    for (; forwarded < pieces && (is_root() || self->received(parent, 0, forwarded)); ++forwarded) {
      const size_t begin = forwarded * piece, bytes = self->in_.bytes();
      tree([&](size_t child) {
        self->send(member_at(child), 0, forwarded, self->in_, begin,
                   std::min(piece, bytes - begin));
      });
    }
    return false;
  }
  void finish() {}
};

Ticket TcpCommunicator::broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                  int root) {
  return run(lane, tag, Cast{this, segments, root});
}

/// Few members: all tell all. Many: in round k every member hears from the one 2^k before it.
struct TcpCommunicator::Barrier {
  TcpCommunicator* self;
  size_t reach = 0;  ///< 2^k of the next round; 0: all tell all

  void start(Lane&) {
    const size_t n = self->members();
    self->in_.assign(nullptr, 0);
    if (n <= kStarMembers) {
      for (size_t i = 1; i < n; ++i) tell(i);
      for (size_t i = 1; i < n; ++i) self->expect(self->other(i), 0, 0, self->in_, 0, 0);
      return;
    }
    for (size_t distance = 1; distance < n; distance *= 2)
      self->expect(self->other(n - distance), 0, 0, self->in_, 0, 0);
    tell(1);
    reach = 2;
  }
  void tell(size_t distance) const { self->send(self->other(distance), 0, 0, self->in_, 0, 0); }
  bool step() {
    const size_t n = self->members();
    for (; reach != 0 && reach < n && self->received(self->other(n - reach / 2), 0, 0); reach *= 2)
      tell(reach);
    return false;
  }
  void finish() {}
};

Ticket TcpCommunicator::barrier(Lane& lane, uint64_t tag) {
  return run(lane, tag, Barrier{this});
}

}  // namespace hora::tcp
