#pragma once

#include <array>
#include <memory>
#include <vector>

#include "ops/bell.h"
#include "ops/shm/window.h"

namespace hora::shm {

/// How members of an operation tell each other how far they are.
///
/// Each rank has one word for each lane, in memory that all see, and only it writes it: tag << 20 |
/// step. `step` counts what the rank has done within the operation `tag`; kFinal says that it will
/// not look at its peers' memory again for this operation. Who needs rank r at step s of operation
/// T waits for word(r) >= (T, s).
///
/// Why one word serves all process sets of a lane. Tags grow along a lane, on every rank, whatever
/// the sets (the engine numbers all buckets in one order), and a rank begins an operation only when
/// its previous one has ended well; an aborted lane never publishes again. So words only grow, and
/// a word of a later tag means that its rank has ended T: it has done every step of it.
///
/// Why it can't deadlock. Take the smallest tag T that some rank has not ended. All its members
/// have ended what comes before on this lane, so they are in T or will begin it. In T they wait for
/// each other's steps, and before they reuse memory for the final step of earlier operations, which
/// have ended. Hence T makes progress.
///
/// Why memory may be reused. A rank that lets peers read its slot or chunks writes down a Debt: who
/// the members were and the final word they will reach. Before the memory is written again, in
/// whatever set, it waits until all have, unless it has seen all of them in a later operation. The
/// last step of an operation therefore costs no waiting unless the next one comes before the
/// slowest peer is done with the same memory.
constexpr int kStepBits = 20;  // steps of an operation: 2^20 chunks are 256 GiB
constexpr uint64_t kFinal = (uint64_t{1} << kStepBits) - 1;
constexpr uint64_t word_of(uint64_t tag, uint64_t step) {
  return tag << kStepBits | step;
}

/// One member as this rank sees it.
struct Member {
  LaneWindow* window = nullptr;
  Bell bell;
  std::byte* arena = nullptr;
  size_t arena_bytes = 0;
};

/// The members of a process set on one lane.
struct Group {
  std::vector<Member> members;
  size_t self = 0;

  size_t size() const { return members.size(); }
  const Member& me() const { return members[self]; }

  /// Everything written before is visible to who sees `word`; wakes those who sleep.
  void publish(uint64_t word) const {
    me().window->progress.word.store(word, std::memory_order_release);
    ring();
  }
  void ring() const {
    for (size_t i = 0; i < members.size(); ++i)
      if (i != self) members[i].bell.ring();
  }

  bool reached(size_t member, uint64_t word) const {
    return members[member].window->progress.word.load(std::memory_order_acquire) >= word;
  }
  /// Have all the others? `next` is where to go on looking; 0 at first.
  bool all_reached(uint64_t word, size_t& next) const {
    for (; next < members.size(); ++next)
      if (next != self && !reached(next, word)) return false;
    return true;
  }
};

/// Who may still read a piece of this rank's memory.
struct Debt {
  std::shared_ptr<const Group> group;
  uint64_t word = 0;
  bool open = false;
  void owe(const std::shared_ptr<const Group>& to, uint64_t until) {
    if (group != to) group = to;
    word = until;
    open = true;
  }
  /// All members of `by` have been seen in the operation `tag`, hence past all before it.
  void settle(const std::shared_ptr<const Group>& by, uint64_t tag) {
    if (group == by && word < word_of(tag, 0)) open = false;
  }
  bool paid(size_t& next) const { return !open || group->all_reached(word, next); }
};

/// This rank's memory on one lane, shared by the lane's communicators.
struct LaneDebts {
  std::array<Debt, kSlots> slots;
  Debt chunks;  ///< and the runs
};

}  // namespace hora::shm
