// An allgather and a reduce_scatter move the same bytes in opposite directions. Of each chunk
// (blocks.h):
//
//   allgather       members bring a host's block into pieces, one for each column (alltoall
//   inside);
//                   the pieces of a column are exchanged between hosts (allgather); all columns'
//                   pieces come to all members of a host (allgather inside)
//   reduce_scatter  what all members of a host have for a column is reduced there (reduce_scatter
//                   inside); then, between hosts, what is for each host (reduce_scatter); the
//                   pieces of a host's block go to the members that they are for (alltoall inside)

#include <algorithm>
#include <cstring>

#include "ops/hierarchical/communicator.h"
#include "ops/kernels/reduce.h"

namespace hora::hierarchical {
namespace {

constexpr size_t kWholeSlot = 8, kShardSlot = 10, kPieceSlot = 12;  // above those of backends

}  // namespace

struct HierarchicalCommunicator::Gather final : Stages {
  Gather(HierarchicalCommunicator* communicator, uint64_t first, const std::byte* from,
         std::byte* to)
      : self(communicator),
        blocks(self->blocks_),
        tag(first),
        inside_tag(first),
        chunks(self->chunks_of(Collective::kAllgather, blocks.total())),
        input(from),
        output(to) {
    blocks.cut(chunks);
  }

  Ticket scatter(Lane& inside, size_t chunk) override {
    const Range mine = blocks.part(self->me());
    const Range own = overlap(mine, blocks.chunk(self->host(), chunk));
    const std::byte* const from = input + (own.bytes() > 0 ? own.begin - mine.begin : 0);
    piece[chunk % kDepth] = from;
    if (!self->links_.inside) co_return Status();  // the only member is the only column
    auto& send = self->local_in_;
    auto& receive = self->local_out_;
    const auto& mates = self->layout_.members[self->host()];
    size_t bytes = 0;
    for (size_t i = 0; i < mates.size(); ++i) {
      send[i] = overlap(mine, piece_of(chunk, i)).bytes();
      receive[i] =
          overlap(blocks.part(mates[i]), piece_of(chunk, self->layout_.local_index)).bytes();
      bytes += receive[i];
    }
    std::byte* const to = self->pipeline_.scratch(kPieceSlot + chunk % kDepth, bytes);
    piece[chunk % kDepth] = to;
    Ticket brought = self->links_.inside->alltoall(inside, inside_tag++, from, send, to, receive);
    co_return co_await brought;
  }

  Ticket cross(Lane& across, size_t chunk) override {
    if (!self->crosses()) co_return Status();
    const size_t column = self->layout_.local_index, bytes = blocks.across(chunk, column);
    std::byte* const to = self->pipeline_.scratch(kShardSlot + chunk % kDepth, bytes);
    shard[chunk % kDepth] = to;
    if (bytes == 0) co_return Status();
    auto& each = self->column_;
    for (size_t host = 0; host < each.size(); ++host)
      each[host] = blocks.piece(host, chunk, column).bytes();
    Ticket exchanged =
        self->links_.column->allgather(across, tag + chunk, piece[chunk % kDepth], to, each);
    co_return co_await exchanged;
  }

  Ticket gather(Lane& inside, size_t chunk) override {
    const std::byte* from = shard[chunk % kDepth];
    if (self->links_.inside) {
      auto& each = self->local_in_;
      size_t bytes = 0;
      for (size_t i = 0; i < each.size(); ++i) {
        each[i] = i < self->layout_.columns ? blocks.across(chunk, i) : 0;
        bytes += each[i];
      }
      std::byte* const to = self->pipeline_.scratch(kWholeSlot, bytes);
      Ticket spread = self->links_.inside->allgather(inside, inside_tag++, from, to, each);
      HORA_CO_TRY(co_await spread);
      from = to;
    }
    for (size_t column = 0; column < self->layout_.columns; ++column)
      for (size_t host = 0; host < self->layout_.hosts; ++host) {
        const Range one = blocks.piece(host, chunk, column);
        blocks.visit(host, one, [&](size_t at, size_t begin, size_t bytes) {
          std::memcpy(output + at, from + begin, bytes);
        });
        from += one.bytes();
      }
    co_return Status();
  }

  /// Of this host's block; an index that is no column has none.
  Range piece_of(size_t chunk, size_t index) const {
    return index < self->layout_.columns ? blocks.piece(self->host(), chunk, index) : Range{};
  }

  HierarchicalCommunicator* const self;
  Blocks& blocks;
  const uint64_t tag;
  uint64_t inside_tag;
  const size_t chunks;
  const std::byte* const input;
  std::byte* const output;
  const std::byte* piece[kDepth] = {};  ///< of this host's block, in this member's column
  const std::byte* shard[kDepth] = {};  ///< all hosts' pieces of it
};

Ticket HierarchicalCommunicator::gather_in_layers(Lane& lane, uint64_t tag, const std::byte* input,
                                                  std::byte* output,
                                                  std::span<const size_t> bytes) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  blocks_.assign(bytes, 1);
  Gather gather(this, tag, input, output);
  Ticket all = pipeline_.run(lane, gather, gather.chunks);
  co_return co_await all;
}

struct HierarchicalCommunicator::Scatter final : Stages {
  Scatter(HierarchicalCommunicator* communicator, uint64_t first, const std::byte* from,
          std::byte* to, const Reduction& reduction)
      : self(communicator),
        blocks(self->blocks_),
        within(self->within(reduction)),
        between(self->between(reduction)),
        tag(first),
        inside_tag(first),
        width(bytes_of(reduction.dtype)),
        chunks(self->chunks_of(Collective::kReduceScatter, blocks.total())),
        input(from),
        output(to) {
    blocks.cut(chunks);
  }

  Ticket scatter(Lane& inside, size_t chunk) override {
    auto& counts = self->local_in_;
    size_t bytes = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      const size_t one = i < self->layout_.columns ? blocks.across(chunk, i) : 0;
      counts[i] = one / width;
      bytes += one;
    }
    std::byte* const whole = self->pipeline_.scratch(kWholeSlot, bytes);
    std::byte* to = whole;
    for (size_t column = 0; column < self->layout_.columns; ++column)
      for (size_t host = 0; host < self->layout_.hosts; ++host) {
        const Range one = blocks.piece(host, chunk, column);
        blocks.visit(host, one, [&](size_t at, size_t begin, size_t bytes_of_part) {
          std::memcpy(to + begin, input + at, bytes_of_part);
        });
        to += one.bytes();
      }
    std::byte* const mine = self->pipeline_.scratch(kShardSlot + chunk % kDepth, bytes);
    shard[chunk % kDepth] = mine;
    if (!self->links_.inside) {
      const std::byte* const inputs[] = {whole};
      std::byte* const outputs[] = {mine};
      reduce(within, inputs, outputs, bytes / width);
      co_return Status();
    }
    Ticket reduced =
        self->links_.inside->reduce_scatter(inside, inside_tag++, whole, mine, counts, within);
    co_return co_await reduced;
  }

  Ticket cross(Lane& across, size_t chunk) override {
    if (!self->crosses()) co_return Status();
    auto& counts = self->column_;
    size_t all = 0;
    for (size_t host = 0; host < counts.size(); ++host) {
      counts[host] = blocks.piece(host, chunk, self->layout_.local_index).bytes() / width;
      all += counts[host];
    }
    std::byte* const to =
        self->pipeline_.scratch(kPieceSlot + chunk % kDepth, counts[self->host()] * width);
    piece[chunk % kDepth] = to;
    if (all == 0) co_return Status();
    Ticket reduced = self->links_.column->reduce_scatter(across, tag + chunk, shard[chunk % kDepth],
                                                         to, counts, between);
    co_return co_await reduced;
  }

  Ticket gather(Lane& inside, size_t chunk) override {
    const Range mine = blocks.part(self->me());
    const Range own = overlap(mine, blocks.chunk(self->host(), chunk));
    std::byte* const to = output + (own.bytes() > 0 ? own.begin - mine.begin : 0);
    const std::byte* const from = piece[chunk % kDepth];
    if (!self->links_.inside) {
      if (own.bytes() > 0) std::memcpy(to, from, own.bytes());
      co_return Status();
    }
    auto& send = self->local_in_;
    auto& receive = self->local_out_;
    const auto& mates = self->layout_.members[self->host()];
    for (size_t i = 0; i < mates.size(); ++i) {
      send[i] = overlap(blocks.part(mates[i]), piece_of(chunk, self->layout_.local_index)).bytes();
      receive[i] = overlap(mine, piece_of(chunk, i)).bytes();
    }
    Ticket brought = self->links_.inside->alltoall(inside, inside_tag++, from, send, to, receive);
    co_return co_await brought;
  }

  /// Of this host's block; an index that is no column has none.
  Range piece_of(size_t chunk, size_t index) const {
    return index < self->layout_.columns ? blocks.piece(self->host(), chunk, index) : Range{};
  }

  HierarchicalCommunicator* const self;
  Blocks& blocks;
  const Reduction within, between;  ///< the members of a host, and hosts
  const uint64_t tag;
  uint64_t inside_tag;
  const size_t width, chunks;
  const std::byte* const input;
  std::byte* const output;
  const std::byte* shard[kDepth] = {};  ///< all hosts' pieces of this member's column
  const std::byte* piece[kDepth] = {};  ///< the one of this host's block
};

Ticket HierarchicalCommunicator::scatter_in_layers(Lane& lane, uint64_t tag, const std::byte* input,
                                                   std::byte* output,
                                                   std::span<const size_t> counts,
                                                   Reduction reduction) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  blocks_.assign(counts, bytes_of(reduction.dtype));
  Scatter scatter(this, tag, input, output, reduction);
  Ticket all = pipeline_.run(lane, scatter, scatter.chunks);
  co_return co_await all;
}

}  // namespace hora::hierarchical
