#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hora::shm {

constexpr size_t kLine = 128;           ///< two cache lines: processors fetch them in pairs
constexpr size_t kSlotBytes = 1 << 10;  ///< above, arenas and streaming stores pay
constexpr size_t kSlots = 2;
constexpr size_t kChunkBytes = 256 << 10;
constexpr size_t kChunks = 4;
constexpr size_t kRuns = 2048;
constexpr size_t kRingBytes = 64 << 10;

/// How far a rank has come on one lane: tag << 20 | step, ever growing. See group.h.
struct alignas(kLine) Progress {
  std::atomic<uint64_t> word;
};

/// One rank's input of a small operation. `tag` is stored last and says whose it is; what fits
/// beside it travels in the same cache line.
struct alignas(kLine) Slot {
  std::atomic<uint64_t> tag;
  std::byte data[kSlotBytes];
};

/// Where a rank's segments of a large operation are: runs of its arena, in order, or private
/// memory.
struct Run {
  static constexpr uint64_t kPrivate = ~uint64_t{0};
  uint64_t offset;  ///< bytes into the owner's arena, or kPrivate
  uint64_t bytes;
};
struct alignas(kLine) Runs {
  uint64_t count;
  Run run[kRuns];
};

/// All that one rank shows the others for one lane.
struct LaneWindow {
  Progress progress;
  Slot slots[kSlots];
  Runs runs;
  alignas(kLine) std::byte chunks[kChunks][kChunkBytes];
};

/// One direction of a control link: bytes [tail, head) modulo kRingBytes wait for the reader.
struct Ring {
  alignas(kLine) std::atomic<uint64_t> head;
  alignas(kLine) std::atomic<uint64_t> tail;
  alignas(kLine) std::byte data[kRingBytes];
};

/// The memory that a rank makes for its peers, all zero at first:
///
///   bell      one line: the word that its driver arms
///   ring_of   uint32 for each rank of the host: 1 + the number of the ring that leads to it, or 0
///   lanes     LaneWindow[lanes]
///   rings     Ring[links]: frames from the owner to the ranks it is linked with
///
/// Ownership: borrows the memory. Threads: none of its own; who may write what is said above.
class Window {
 public:
  static size_t bytes_for(int ranks, int lanes, int links);
  Window() = default;
  Window(std::byte* base, int ranks, int lanes) : base_(base), ranks_(ranks), lanes_(lanes) {}

  std::atomic<uint32_t>* armed() const;
  std::span<uint32_t> ring_of() const;
  LaneWindow& lane(int index) const;
  Ring& ring(int index) const;
  Ring* ring_to(int index) const;  ///< of the rank with this index on the host; null: no link

 private:
  std::byte* base_ = nullptr;
  int ranks_ = 0, lanes_ = 0;
};

}  // namespace hora::shm
