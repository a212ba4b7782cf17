#pragma once

#include "ops/shm/communicator.h"

namespace hora::shm {

/// A large operation goes in rounds. In round k a member has staged its k-th chunk in its window
/// (work.fill) and reads its peers' k-th chunks (work.drain). A chunk is staged one round ahead, so
/// that copying in overlaps with waiting for the others.
///
/// Step staged(k) of a member says: chunk k is there; and, as it drained chunk k - 2 before, all up
/// to k - 2 are read. With kChunks buffers chunk k + 1 overwrites chunk k + 1 - kChunks, so
/// everybody must be at staged(k + 3 - kChunks) or further. Who has fewer rounds to do is at
/// kFinal.
constexpr uint64_t kDescribed = 1;
constexpr uint64_t staged(size_t round) {
  return 2 + round;
}
static_assert(kChunks >= 3);

/// Work is trivially copyable and has: bool fills() (does this member stage anything?); int
/// source() (the only member that does, or -1: all do); fill(round, chunk); drain(round).
template <class Work>
Ticket ShmCommunicator::rounds(Lane& lane, uint64_t tag, size_t count, bool first_staged,
                               Work work) {
  const Group& group = *group_;
  const int source = work.source();
  if (!first_staged && count > 0) {
    work.fill(0, chunk_of(group.self, 0));
    publish_step(tag, staged(0));
  }
  for (size_t k = 0; k < count; ++k) {
    if (k + 1 < count) {
      if (work.fills() && k + 3 > kChunks) {
        const uint64_t read = word_of(tag, staged(k + 3 - kChunks));
        HORA_CO_TRY(co_await lane.until(
            [&group, read, next = size_t{0}]() mutable { return group.all_reached(read, next); }));
      }
      work.fill(k + 1, chunk_of(group.self, k + 1));
      publish_step(tag, staged(k + 1));
    }
    const uint64_t there = word_of(tag, staged(k));
    if (source < 0) {
      HORA_CO_TRY(co_await lane.until(
          [&group, there, next = size_t{0}]() mutable { return group.all_reached(there, next); }));
    } else if (!work.fills()) {
      HORA_CO_TRY(co_await lane.until(
          [&group, there, source] { return group.reached(static_cast<size_t>(source), there); }));
    }
    work.drain(k);
    if (k % 2 == 1) HORA_CO_TRY(co_await lane.pause());
  }
  co_return Status();
}

/// An operation that is nothing but rounds.
template <class Work>
Ticket ShmCommunicator::whole(Lane& lane, uint64_t tag, size_t count, Work work) {
  Debt& debt = debts_->chunks;
  HORA_CO_TRY(co_await lane.until([&debt, next = size_t{0}]() mutable { return debt.paid(next); }));
  if (work.fills()) debt.owe(group_, word_of(tag, kFinal));
  if (count > 0) {
    Ticket all = rounds(lane, tag, count, false, work);
    HORA_CO_TRY(co_await all);
  }
  publish_step(tag, kFinal);
  co_return Status();
}

inline size_t rounds_for(size_t amount, size_t per_round) {
  return (amount + per_round - 1) / per_round;
}

}  // namespace hora::shm
