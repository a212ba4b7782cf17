#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "compressors/stripes.h"
#include "ops/aggregate.h"

// A bucket is walked in chunks: runs of one slot's elements that are encoded as one payload, short
// enough to stay in L2. In a recode a chunk is a stripe, with one owner; otherwise the owner is 0.
// Payloads lie in the order of the walk, those for one owner side by side, each filled up to a
// multiple of 8 bytes. Every rank has the same slots, hence the same chunks, so no size is sent;
// unless a codec of the bucket `varies`. Then payloads are packed, and before they travel, members
// exchange how many bytes they have for each other:
//
//   sizes = u64 bytes for this member, a multiple of 8; at most what the chunks could take
//
// Where a payload ends the codec reads from its beginning (Codec::used_bytes).

namespace hora::aggregation {

constexpr size_t kChunk = 32768;                    // elements; 128 KiB of float32
constexpr size_t kBetweenPauses = size_t{1} << 17;  // elements; 512 KiB of float32

inline size_t aligned(size_t bytes) {
  return (bytes + 7) / 8 * 8;
}

/// Of the lane's scratch memory, in all ways to aggregate.
enum ScratchSlot : size_t {
  kTables = kAggregateScratch,
  kOut,
  kIn,
  kAll,
  kStage,
  kOther,
  kHeads,
  kSums,
  kEntries,
  kLeft,
  kPacked,
  kPart,
  kOwn,
  kSizes,
  kSlots,
  kBefore,
  kThere,
  kWork
};

/// The lane's scratch memory, as codecs see it.
class LaneWorkspace final : public Workspace {
 public:
  explicit LaneWorkspace(Lane& lane) : lane_(lane) {}
  std::byte* memory(size_t slot, size_t bytes) override {
    return lane_.scratch(kWork + slot, bytes).data();
  }

 private:
  Lane& lane_;
};

/// A run of one slot's elements that travels as one payload.
struct Chunk {
  const Slot* slot = nullptr;
  uint64_t first = 0;  // in the tensor
  size_t count = 0;
  int owner = 0;
  size_t bytes = 0;       // of its payload, at most
  size_t back_bytes = 0;  // of its sum's, where it has an owner
  size_t owned_slot = 0;  // where an owner's memory has it
};

/// Visits all chunks of a bucket, always in the same order. `ranks` 0: nothing is striped.
class Walk {
 public:
  Walk(std::span<const Slot> slots, int ranks) : slots_(slots), ranks_(ranks) {}

  bool next(Chunk& chunk) {
    while (index_ < slots_.size() && done_ == slots_[index_].count) {
      ++index_;
      done_ = 0;
    }
    if (index_ == slots_.size()) return false;
    const Slot& slot = slots_[index_];
    const size_t left = slot.count - done_;
    chunk.slot = &slot;
    chunk.first = slot.first + done_;
    if (ranks_ > 0) {
      const Extent& extent = slot.codec->extent();
      const Stripes stripes(extent.id, slot.shard.within(extent.count()), slot.granule(), ranks_);
      chunk.owner = stripes.owner(chunk.first);
      chunk.owned_slot = stripes.slot(chunk.first);
      chunk.count = std::min<size_t>(left, stripes.end(chunk.first) - chunk.first);
      chunk.back_bytes = slot.second().payload_bytes(chunk.count);
    } else {
      chunk.count = std::min(left, longest(*slot.codec));
    }
    chunk.bytes = slot.codec->payload_bytes(chunk.count);
    done_ += chunk.count;
    return true;
  }

 private:
  static size_t longest(const Codec& codec) {
    if (codec.traits().sparse || codec.rounds() > 1) return ~size_t{0};
    return std::max<size_t>(1, kChunk / codec.granule()) * codec.granule();
  }

  std::span<const Slot> slots_;
  int ranks_;
  size_t index_ = 0, done_ = 0;
};

/// What a codec has judged, and what of: all who hear of it come to the same error.
struct Verdict {
  Status status;
  const Slot* slot = nullptr;
  float first = 0;  // of the chunk's sum
};

/// What is left to do when results are there and no memory has been settled for good: its error
/// undoes the exchange.
class Ending {
 public:
  virtual Ticket run(const Verdict& verdict) = 0;

 protected:
  ~Ending() = default;
};

/// Payloads side by side, in one part for each member.
struct Parts {
  std::span<size_t> sizes = {};  // bytes of each part
  std::span<size_t> cursors = {}, ends = {};

  /// Back to the beginning; gives the bytes of all.
  size_t begin() {
    size_t at = 0;
    for (size_t r = 0; r < sizes.size(); ++r) {
      cursors[r] = at;
      ends[r] = at += sizes[r];
    }
    return at;
  }

  /// Part r's next payload, for `count` elements; it may take `most` bytes. Also of sizes that a
  /// peer made up nothing is read beyond the part.
  std::span<const std::byte> read(int member, const std::byte* memory, const Codec& codec,
                                  size_t count, size_t most) {
    const auto r = static_cast<size_t>(member);
    const size_t left = ends[r] - cursors[r];
    std::span<const std::byte> payload(memory + cursors[r], std::min(most, left));
    payload = payload.first(codec.used_bytes(payload, count));
    cursors[r] += std::min(aligned(payload.size()), left);
    return payload;
  }
};

/// One bucket on its way, in whichever aggregation.
struct Job {
  Lane& lane;
  Communicator& communicator;
  const uint64_t sequence;
  const std::span<const Slot> slots;
  const Combine combine;
  LaneWorkspace workspace;
  Ending* const ending = nullptr;
  const bool votes = false;
  State none = {};

  size_t since_pause = 0;
  size_t encoded = 0, recoded = 0;           // chunks whose memories have been settled so far
  uint64_t exchanges = 0;                    // so far
  bool varies = false, back_varies = false;  // sizes of payloads, and of sums' payloads
  /// Payloads of one direction: what this rank has for each owner, or has from each member.
  Parts there = {}, from = {}, back = {};
  std::byte *out = nullptr, *in = nullptr, *all = nullptr;
  std::byte* own = nullptr;  // payloads of the sums that this rank owns

  int me() const { return communicator.rank(); }
  int ranks() const { return communicator.size(); }
  Turn turn(const Slot& slot) {
    return {slot.step, static_cast<uint64_t>(me()), workspace,
            static_cast<float>(combine.prescale)};
  }
  Turn owner_turn(const Slot& slot) {
    return {slot.step, static_cast<uint64_t>(Drawer::kOwner), workspace};
  }
  State& mine(const Chunk& chunk) { return chunk.slot->mine ? *chunk.slot->mine : none; }

  /// The owner's memory has its stripes side by side: for each stripe it seems to begin elsewhere.
  State& owned(const Chunk& chunk) {
    State& state = chunk.slot->owned ? *chunk.slot->owned : none;
    state.first = chunk.first - chunk.owned_slot;
    return state;
  }

  float result_scale() const {
    const double members = combine.op == ReduceOp::kAverage && !votes ? ranks() : 1;
    return static_cast<float>(combine.postscale / members);
  }
  bool pause_is_due(size_t count) {
    since_pause += count;
    if (since_pause < kBetweenPauses) return false;
    since_pause = 0;
    return true;
  }
  /// Where sizes vary; elsewhere wire_bytes() knows them all.
  void count_sent(size_t bytes) {
    if (combine.sent && (varies || back_varies)) *combine.sent += bytes;
  }
  uint64_t next_tag() { return Tag::of(sequence, exchanges++); }
  void begin_cursors() {
    there.begin();
    from.begin();
    back.begin();
  }
  /// The chunk's payload of this rank's own; goes on to the next one's.
  std::span<const std::byte> said(const Chunk& chunk) {
    return there.read(chunk.owner, out, *chunk.slot->codec, chunk.count, chunk.bytes);
  }
  std::byte* scratch(size_t slot, size_t bytes) { return lane.scratch(slot, bytes).data(); }
  float* floats(size_t slot, size_t count) {
    return reinterpret_cast<float*>(scratch(slot, count * sizeof(float)));
  }
};

/// Where the chunk's elements begin in its slot's memory, in bytes.
size_t offset(const Chunk& chunk);

/// The chunk's gradient in float32.
Piece piece_of(Job& job, const Chunk& chunk);

/// Writes the chunk's payload behind those of its owner in `job.out`, which has room for
/// aligned(chunk.bytes), and settles this rank's memory.
void encode(Job& job, const Chunk& chunk);

/// Zeros behind a payload just written, up to a multiple of 8; gives its bytes with them.
size_t filled_up(const Codec& codec, std::byte* payload, size_t count, size_t most);

/// Zeros in float32 for a chunk's result: its place itself, if that is float32.
std::span<float> begin_result(Job& job, const Chunk& chunk);

/// Rounds it once, if need be. False: something in it is not finite.
bool end_result(const Chunk& chunk, std::span<const float> result);

/// What the codec says of a decoded sum; the same on all ranks, as the sum is.
Verdict judge(const Slot& slot, std::span<const float> result);

/// Before memories are settled for good: the ending, if there is one, or the verdict itself.
Ticket complete(Job& job, const Verdict& verdict);

/// As the function of this name, with an ending (or null).
Ticket aggregate(Lane& lane, Communicator& communicator, uint64_t sequence, Aggregation how,
                 std::span<const Slot> slots, Combine combine, Ending* ending);

/// Puts back what this rank's own `payload` says: all, or only where `result` is not finite.
void take_back(Job& job, const Chunk& chunk, std::span<const std::byte> payload,
               const float* result);

/// Room for payloads to `owners` owners, and as much from each member as is for this one; gives the
/// bytes of all on their way there. `striped` as Walk's `ranks`.
size_t lay_out(Job& job, int striped, size_t owners);

/// All is encoded, and gets packed: the parts of `job.there` get the sizes that they have.
void pack(Job& job);

/// Whose payload it was, and of what, where it could not be decoded.
Status blamed(const Status& status, const Chunk& chunk, int rank);

/// Adds what every member says of the chunk, in rank order. `memory` has their parts.
Status add_up(Job& job, const Chunk& chunk, const std::byte* memory, std::span<float> sum,
              float scale);

/// Where sizes vary: members hear how many bytes each of them sends: `mine` has one number for all,
/// or one for each. They take the place of the most that could have been, in `parts`.
Ticket tell_sizes(Job& job, std::span<const size_t> mine, Parts& parts);

/// Nobody has sent more than its payloads.
Status all_read(const Parts& parts);

}  // namespace hora::aggregation
