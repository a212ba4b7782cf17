#include <algorithm>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "ops/aggregate_job.h"
#include "ops/kernels/reduce.h"

// A bucket's *part* for a column is what that column's shards have of each slot, slot by slot, then
// a trailer on the way back:
//
//   part = element[counts[column]], zeros up to a multiple of 8, u32 judged, f32 first
//
// `judged` is 1 + the number of the slot that a codec of this column has judged, `first` the first
// element of its sum, for the other columns have not seen it; 0: nothing was wrong. Every member of
// a host has the same slots, hence the same parts, so no size is ever sent.

namespace hora {

using namespace aggregation;

namespace {

struct Trailer {
  uint32_t judged = 0;
  float first = 0;
};

/// What a column has of a slot.
Slot share_of(const Slot& slot, int columns, int column) {
  const Extent& extent = slot.codec->extent();
  Slot share = slot;
  share.shard = shard_of(extent.id, extent.count(), slot.granule(), columns, column);
  share.first = std::max(slot.first, share.shard.first);
  const uint64_t end = std::min(slot.first + slot.count, share.shard.end());
  share.count = share.first < end ? end - share.first : 0;
  if (share.count == 0) share.first = share.shard.first;
  return share;
}

/// One bucket on its way through the layers.
class ThroughHosts final : public Ending {
 public:
  ThroughHosts(Lane& lane, Communicator& communicator, uint64_t sequence,
               std::span<const Slot> slots, const Combine& combine)
      : lane_(lane),
        layers_(communicator.layers()),
        sequence_(sequence * layers_.tags),
        slots_(slots),
        dtype_(slots.front().dtype),
        width_(bytes_of(dtype_)),
        within_{dtype_, ReduceOp::kSum, combine.prescale, 1},
        between_{combine.op, 1, combine.postscale, combine.degrees, combine.sent} {
    if (combine.op == ReduceOp::kAverage)
      within_.postscale = static_cast<double>(layers_.hosts) / communicator.size();
  }

  Ticket exchange(Aggregation how) {
    lay_out();
    HORA_CO_TRY(co_await pack());
    HORA_CO_TRY(co_await add_up());
    const Verdict fine;
    if (!layers_.between) co_return co_await run(fine);
    size_t at = 0;
    for (Slot& share : shares_) {
      share.input = share.result = part_ + at;
      at += share.count * width_;
    }
    co_return co_await aggregation::aggregate(lane_, *layers_.between, sequence_, how, shares_,
                                              between_, this);
  }

  /// Collects the columns' parts within the host, and copies them out.
  Ticket run(const Verdict& verdict) override {
    const std::byte* parts = part_;
    if (layers_.between) finish_part(verdict);
    if (layers_.inside) {
      HORA_CO_TRY(
          co_await layers_.inside->allgather(lane_, Tag::of(sequence_, 1), part_, packed_, bytes_));
      parts = packed_;
    }
    HORA_CO_TRY(verdict.status);
    HORA_CO_TRY(judge_others(parts));
    co_return co_await unpack(parts);
  }

 private:
  /// Calls visit(share, column) for what columns have of slots, in the order of parts.
  template <class Visit>
  void each_share(Visit visit) const {
    for (int column = 0; column < layers_.columns; ++column) {
      for (const Slot& slot : slots_) visit(share_of(slot, layers_.columns, column), column);
    }
  }

  void lay_out() {
    const auto local = static_cast<size_t>(layers_.inside ? layers_.inside->size() : 1);
    std::byte* const memory =
        lane_.scratch(kSlots, slots_.size() * sizeof(Slot) + 2 * local * sizeof(size_t)).data();
    auto* const shares = reinterpret_cast<Slot*>(memory);
    for (size_t i = 0; i < slots_.size(); ++i)
      std::construct_at(shares + i, share_of(slots_[i], layers_.columns, layers_.column));
    shares_ = {shares, slots_.size()};
    auto* const table = reinterpret_cast<size_t*>(shares + slots_.size());
    counts_ = {table, local};
    bytes_ = {table + local, local};
    std::fill_n(table, 2 * local, 0);
    each_share([&](const Slot& share, int column) {
      counts_[layers_.inside ? static_cast<size_t>(column) : 0] += share.count;
    });
    size_t total = 0;
    for (size_t i = 0; i < local; ++i) {
      const bool speaks = static_cast<int>(i) < layers_.columns;
      if (speaks) bytes_[i] = aligned(counts_[i] * width_) + sizeof(Trailer);
      total += bytes_[i];
    }
    me_ = layers_.inside ? static_cast<size_t>(layers_.column) : 0;
    packed_ = lane_.scratch(kPacked, total).data();
    part_ = lane_.scratch(kPart, bytes_[me_]).data();
  }

  Ticket pack() {
    std::byte* to = packed_;
    for (int column = 0; column < layers_.columns; ++column) {
      for (const Slot& slot : slots_) {
        const Slot share = share_of(slot, layers_.columns, column);
        const size_t bytes = share.count * width_;
        if (bytes > 0) std::memcpy(to, slot.input + (share.first - slot.first) * width_, bytes);
        to += bytes;
        if (pause_is_due(share.count)) HORA_CO_TRY(co_await lane_.pause());
      }
    }
    co_return Status();
  }

  Ticket add_up() {
    if (layers_.inside)
      co_return co_await layers_.inside->reduce_scatter(lane_, Tag::of(sequence_, 0), packed_,
                                                        part_, counts_, within_);
    const std::byte* const inputs[] = {packed_};
    std::byte* const outputs[] = {part_};
    reduce(within_, inputs, outputs, counts_[0]);
    co_return Status();
  }

  void finish_part(const Verdict& verdict) {
    const size_t used = counts_[me_] * width_, end = bytes_[me_] - sizeof(Trailer);
    std::memset(part_ + used, 0, end - used);
    Trailer trailer;
    if (verdict.slot)
      trailer = {static_cast<uint32_t>(verdict.slot - shares_.data()) + 1, verdict.first};
    std::memcpy(part_ + end, &trailer, sizeof(trailer));
  }

  /// What a codec has said in another column.
  Status judge_others(const std::byte* parts) const {
    for (const size_t bytes : bytes_) {
      if (bytes == 0) continue;
      parts += bytes;
      Trailer trailer;
      std::memcpy(&trailer, parts - sizeof(trailer), sizeof(trailer));
      if (trailer.judged > slots_.size())
        return Status(Code::kCorrupt, "a part from this host speaks of a tensor that is not there");
      if (trailer.judged == 0) continue;
      const Slot& slot = slots_[trailer.judged - 1];
      Status status = judge(slot, {&trailer.first, 1}).status;
      if (!status.ok()) return status;
      return Status(Code::kInvalidArgument,
                    fmt::format("'{}': its compressor has failed; another rank's error says why",
                                slot.tensor));
    }
    return {};
  }

  Ticket unpack(const std::byte* parts) {
    for (int column = 0; column < layers_.columns; ++column) {
      const std::byte* from = parts;
      for (const Slot& slot : slots_) {
        const Slot share = share_of(slot, layers_.columns, column);
        const size_t bytes = share.count * width_;
        if (bytes > 0) std::memcpy(slot.result + (share.first - slot.first) * width_, from, bytes);
        from += bytes;
        if (pause_is_due(share.count)) HORA_CO_TRY(co_await lane_.pause());
      }
      parts += bytes_[layers_.inside ? static_cast<size_t>(column) : 0];
    }
    co_return Status();
  }

  bool pause_is_due(size_t count) {
    since_pause_ += count;
    if (since_pause_ < kBetweenPauses) return false;
    since_pause_ = 0;
    return true;
  }

  Lane& lane_;
  const Layers layers_;
  const uint64_t sequence_;
  const std::span<const Slot> slots_;
  const DType dtype_;
  const size_t width_;
  Reduction within_;
  const Combine between_;
  std::span<Slot> shares_;            // of this member's column
  std::span<size_t> counts_, bytes_;  // of the parts of this host's members: elements, bytes
  size_t me_ = 0;                     // this member's part
  std::byte *packed_ = nullptr, *part_ = nullptr;
  size_t since_pause_ = 0;
};

}  // namespace

Slot between_hosts(const Slot& slot, const Layers& layers) {
  return share_of(slot, layers.columns, layers.column);
}

Ticket aggregate_between_hosts(Lane& lane, Communicator& communicator, uint64_t sequence,
                               Aggregation how, std::span<const Slot> slots, Combine combine) {
  if (slots.empty()) co_return Status();
  const Layers layers = communicator.layers();
  if (layers.hosts == 1) {
    combine.sent = nullptr;  // nothing is compressed
    co_return co_await aggregate(lane, communicator, sequence, Aggregation::kDense, slots, combine);
  }
  if (layers.hosts == communicator.size())
    co_return co_await aggregate(lane, *layers.between, sequence * layers.tags, how, slots,
                                 combine);
  ThroughHosts through(lane, communicator, sequence, slots, combine);
  co_return co_await through.exchange(how);
}

}  // namespace hora
