#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/lane.h"

namespace hora {

/// A run of elements in this rank's memory.
struct Segment {
  std::byte* data = nullptr;
  size_t count = 0;  ///< elements
};

/// Orders operations: strictly increasing along a lane for every member. The engine makes it of the
/// plan's sequence number (all ranks agree on it) and the number of the exchange within the plan.
struct Tag {
  static constexpr uint64_t kExchanges = 16;
  static constexpr uint64_t of(uint64_t sequence, uint64_t exchange) {
    return sequence * kExchanges + exchange;
  }
};

/// What an allreduce or reduce_scatter computes, for every element, in this order: multiply each
/// rank's value by `prescale`; combine in rank order ((x0 + x1) + x2 ...); for kAverage divide by
/// the number of members; multiply by `postscale`; round once to `dtype`.
///
/// float16, bfloat16 and float32 compute in float32, float64 in float64; kAverage and the scales
/// are one factor, rounded once to that type. Integers add with wrap-around; scales other than 1 go
/// through float64 and round towards zero; kAverage divides towards zero. bool: sum and max are or,
/// min and product are and; kAverage is refused before it gets here. Equal bits on all ranks.
struct Reduction {
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  double prescale = 1, postscale = 1;
};

/// An exchange through owners whose bytes are made and used while they travel: every member says
/// something to each owner, the owner makes one answer of what all say, and everybody reads all
/// answers, its own included. What is said to a member, and what it answers, is equally long on all
/// ranks that know of it, and known before.
///
/// Owned by the caller; used by the lane's driver.
class Relay {
 public:
  /// A part for, or from, each member: side by side, and made or received from its beginning on.
  struct Parts {
    std::byte* data = nullptr;
    std::span<const size_t> ends = {};  ///< where each part ends
    std::span<size_t> there = {};       ///< up to where each part is there

    size_t begin(size_t member) const { return member > 0 ? ends[member - 1] : 0; }
    void all_there() { std::copy(ends.begin(), ends.end(), there.begin()); }
  };
  Parts said;     ///< to each owner; made by say()
  Parts heard;    ///< from each member, as long as what this one is told; the backend fills it
  Parts answers;  ///< from each owner; its own by answer(), the others' the backend fills
  Status status;  ///< an error ends the exchange

  /// Each does some of its work, half a mebibyte of gradient at most, as far as what it needs is
  /// there. False: there was nothing to do.
  virtual bool say() = 0;
  virtual bool answer() = 0;
  virtual bool read() = 0;

 protected:
  ~Relay() = default;
};

class Communicator;

/// How a communicator's members lie on hosts, and who they reach them through. Members that are
/// alike on their hosts make a *column*; only columns speak with other hosts.
struct Layers {
  Communicator* inside = nullptr;   ///< this host's members in order; null: there is no other
  Communicator* between = nullptr;  ///< this member's column, by host; null: it is in none
  int hosts = 1, host = 0;          ///< how many, and this member's
  int columns = 1, column = 0;      ///< how many, and this member's number on its host
  uint64_t tags = 1;  ///< the two take so many tags for each of the communicator's, from its tag
                      ///< times this
};

/// One backend's way to move bytes among the members of one process set on one lane. Members are
/// numbered 0..size-1 in the order of the set's ranks.
///
/// All members call the same operation with the same tag, reduction, sizes and element counts (the
/// engine has made sure); segment boundaries and addresses are each rank's own. Memory is borrowed
/// until the ticket ends. An operation begins only when the lane's previous one has ended here.
///
/// Threads: the lane's driver. Errors: kPeerLost from a library's own detection; a wait ends with
/// the lane's abort. Nothing is thrown.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place over the concatenation of `segments`.
  virtual Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                           const Reduction& reduction) = 0;

  /// `input` is the concatenation of every member's part, `counts` elements long; `output` has this
  /// member's part, reduced.
  virtual Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                                std::span<const size_t> counts, const Reduction& reduction) = 0;

  /// Part r of `output`, `bytes[r]` long, comes from member r; `input` is this member's part and
  /// may be that part of `output`.
  virtual Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                           std::span<const size_t> bytes) = 0;

  /// Part r of `input`, `send[r]` bytes long, goes to member r; part r of `output`, `receive[r]`
  /// long, comes from member r. The two do not overlap.
  virtual Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                          std::span<const size_t> send, std::byte* output,
                          std::span<const size_t> receive) = 0;

  /// Whether relay() is there. Who has none gets alltoall and allgather, with all work between.
  virtual bool relays() const { return false; }
  virtual Ticket relay(Lane&, uint64_t, Relay&) {
    co_return Status(Code::kUnavailable, "this backend does not relay");
  }

  /// `root` is a member's number. In place; segment counts are bytes.
  virtual Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                           int root) = 0;

  virtual Ticket barrier(Lane& lane, uint64_t tag) = 0;

  /// For who sends one thing inside hosts and another between them. The standard: every member is a
  /// host of its own.
  virtual Layers layers() { return {nullptr, this, size(), rank(), 1, 0, 1}; }

  /// The epoch is over: whatever blocks in a library must return soon. The lane is aborted before.
  virtual void abort() {}
};

/// One way to move bytes.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  /// For the process set `set` with these `ranks` (ascending, this one among them) on one lane.
  /// Called in the same order on all members of a lane. Must not wait for anybody: what needs the
  /// others is set up by the first operation.
  virtual Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                             int lane) = 0;

  /// Memory that peers can reach, aligned to 64 (the arena), kept until the backend ends; null
  /// memory when this backend has no use for one.
  virtual Result<std::span<std::byte>> arena(size_t bytes) {
    (void)bytes;
    return std::span<std::byte>();
  }

  /// A descriptor that becomes readable when an operation may go on although nobody has rung, for a
  /// driver to sleep on beside its bell; -1: there is none.
  virtual int watched() const { return -1; }

  /// Takes note of what has made watched() readable: it is readable again only for what comes
  /// later. For a driver that has slept, before it looks at its lanes. Threads: as for a lane.
  virtual void look() {}
};

}  // namespace hora
