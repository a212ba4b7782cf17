// Four ways to the same bits; all members choose alike.
//
//   small   everybody's input goes to its slot, and everybody adds up all slots: one exchange
//   pushed  where it lies in all arenas, each member adds up one range of all slices and writes
//           the result into every slice
//   direct  private memory, two members or little of it: staged in chunks (rounds.h); everybody
//           adds up all
//   shared  private memory, more of both: staged in chunks; each member adds up one range of each
//           chunk and writes the result into every member's chunk, from where each copies it out

#include <algorithm>
#include <cstring>

#include "ops/cursor.h"
#include "ops/kernels/reduce.h"
#include "ops/shm/communicator.h"
#include "ops/shm/rounds.h"

namespace hora::shm {
namespace {

constexpr size_t kDirectMembers = 2;
constexpr size_t kDirectBytes = 32 << 10;  // with more members; one step less than sharing
constexpr size_t kStreamBytes = 8 << 20;   // results larger than this won't be in the cache anyway
constexpr size_t kPauseBytes = 1 << 20;    // touched between two looks at other work

struct Range {
  size_t begin, end;
};

/// A member's part of `count` elements, cut at cache lines.
Range range_of(size_t count, size_t member, size_t members, size_t width) {
  const size_t line = 64 / width;
  const size_t per = (count + members * line - 1) / (members * line) * line;
  const size_t begin = std::min(count, per * member);
  return {begin, std::min(count, begin + per)};
}

}  // namespace

Ticket ShmCommunicator::allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                  const Reduction& reduction) {
  if (size() == 1) return alone(lane, segments, reduction);
  const size_t bytes = count_in(segments) * bytes_of(reduction.dtype);
  if (bytes <= kSlotBytes) return small(lane, tag, segments, reduction);
  return large(lane, tag, segments, reduction);
}

Ticket ShmCommunicator::alone(Lane& lane, std::span<const Segment> segments, Reduction reduction) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));
  for (const Segment& segment : segments) {
    const std::byte* const in[] = {segment.data};
    std::byte* const out[] = {segment.data};
    if (segment.count > 0) reduce(reduction, in, out, segment.count);
  }
  co_return Status();
}

Ticket ShmCommunicator::small(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                              Reduction reduction) {
  const Group& group = *group_;
  const size_t parity = operations_++ % kSlots;
  Debt& debt = debts_->slots[parity];
  HORA_CO_TRY(co_await lane.until([&debt, next = size_t{0}]() mutable { return debt.paid(next); }));
  debt.owe(group_, word_of(tag, kFinal));

  const size_t width = bytes_of(reduction.dtype);
  Slot& mine = group.me().window->slots[parity];
  std::byte* to = mine.data;
  for (const Segment& segment : segments) {
    if (segment.count == 0) continue;
    std::memcpy(to, segment.data, segment.count * width);
    to += segment.count * width;
  }
  mine.tag.store(tag, std::memory_order_release);
  group.ring();

  HORA_CO_TRY(co_await lane.until([&group, tag, parity, next = size_t{0}]() mutable {
    for (; next < group.size(); ++next)
      if (group.members[next].window->slots[parity].tag.load(std::memory_order_acquire) < tag)
        return false;
    return true;
  }));
  // So the next operation need not fetch their words, a line each from another core.
  for (Debt& earlier : debts_->slots) earlier.settle(group_, tag);
  size_t done = 0;
  for (const Segment& segment : segments) {
    if (segment.count == 0) continue;
    for (size_t i = 0; i < group.size(); ++i)
      inputs_[i] = group.members[i].window->slots[parity].data + done;
    std::byte* const out[] = {segment.data};
    reduce(reduction, inputs_, out, segment.count);
    done += segment.count * width;
  }
  publish_step(tag, kFinal);
  co_return Status();
}

struct ShmCommunicator::Direct {
  ShmCommunicator* self;
  Reduction reduction;
  Cursor in, out;
  size_t count, per_round, width;
  bool streams_in, streams_out;

  bool fills() const { return true; }
  int source() const { return -1; }
  size_t count_in_round(size_t round) const {
    return std::min(per_round, count - round * per_round);
  }
  void fill(size_t round, std::byte* chunk) {
    in.take(count_in_round(round), [&](std::byte* data, size_t elements, size_t at) {
      Staging::copy(chunk + at * width, data, elements * width, streams_in);
    });
  }
  void drain(size_t round) {
    out.take(count_in_round(round), [&](std::byte* data, size_t elements, size_t at) {
      const size_t me = self->group_->self;
      for (size_t i = 0; i < self->inputs_.size(); ++i)
        self->inputs_[i] = i == me ? data : self->chunk_of(i, round) + at * width;
      std::byte* const to[] = {data};
      reduce(reduction, self->inputs_, to, elements, streams_out);
    });
  }
};

Ticket ShmCommunicator::large(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                              Reduction reduction) {
  const Group& group = *group_;
  const size_t width = bytes_of(reduction.dtype);
  Debt& debt = debts_->chunks;
  HORA_CO_TRY(co_await lane.until([&debt, next = size_t{0}]() mutable { return debt.paid(next); }));
  debt.owe(group_, word_of(tag, kFinal));

  // With nothing in the arena the first chunk is known already, and announced together with that.
  const bool private_only = !describe(group.me(), segments, width);
  const size_t per_round = kChunkBytes / width;
  const size_t bytes = count_in(segments) * width;
  const bool direct = group.size() <= kDirectMembers || bytes <= kDirectBytes;
  const bool streams = direct && staging_.streams(bytes);
  if (private_only) {
    Cursor first(segments, width);
    std::byte* chunk = chunk_of(group.self, 0);
    first.take(std::min(per_round, count_in(segments)), [&](std::byte* data, size_t n, size_t at) {
      Staging::copy(chunk + at * width, data, n * width, streams);
    });
  }
  publish_step(tag, private_only ? staged(0) : kDescribed);
  const uint64_t described = word_of(tag, kDescribed);
  HORA_CO_TRY(co_await lane.until([&group, described, next = size_t{0}]() mutable {
    return group.all_reached(described, next);
  }));
  HORA_CO_TRY(split_.make(group, segments, width));
  const uint64_t began = Staging::ticks();

  if (split_.common() > 0) {
    Ticket pushed = push(lane, reduction);
    HORA_CO_TRY(co_await pushed);
  }
  if (const size_t count = count_in(split_.rest()); count > 0) {
    Ticket rest;
    if (!direct) {
      rest = shared_rounds(lane, tag, split_.rest(), reduction, private_only);
    } else {
      Direct work{this,
                  reduction,
                  Cursor(split_.rest(), width),
                  Cursor(split_.rest(), width),
                  count,
                  per_round,
                  width,
                  streams,
                  count * width >= kStreamBytes};
      if (private_only) work.in.take(std::min(per_round, count), [](std::byte*, size_t, size_t) {});
      rest = rounds(lane, tag, rounds_for(count, per_round), private_only, work);
    }
    HORA_CO_TRY(co_await rest);
    if (split_.common() == 0) staging_.took(Staging::ticks() - began);
  }
  publish_step(tag, kFinal);
  if (split_.common() > 0) {  // others write into my arena until they are done
    const uint64_t all = word_of(tag, kFinal);
    HORA_CO_TRY(co_await lane.until(
        [&group, all, next = size_t{0}]() mutable { return group.all_reached(all, next); }));
  }
  co_return Status();
}

Ticket ShmCommunicator::push(Lane& lane, Reduction reduction) {
  const size_t width = bytes_of(reduction.dtype);
  const Range mine = range_of(split_.common(), group_->self, group_->size(), width);
  const size_t step = std::max<size_t>(kPauseBytes / width / group_->size(), 64) / 64 * 64;
  for (size_t at = mine.begin; at < mine.end; at += step) {
    if (at > mine.begin) HORA_CO_TRY(co_await lane.pause());
    push_range(reduction, at, std::min(mine.end, at + step));
  }
  co_return Status();
}

/// Elements [begin, end) of the common pieces.
void ShmCommunicator::push_range(const Reduction& reduction, size_t begin, size_t end) {
  const size_t width = bytes_of(reduction.dtype);
  size_t before = 0;
  for (size_t piece = 0; piece < split_.pieces() && before < end; before += split_.count(piece++)) {
    const size_t from = std::max(begin, before);
    const size_t to = std::min(end, before + split_.count(piece));
    if (from >= to) continue;
    const std::span<std::byte* const> memory = split_.memory(piece);
    for (size_t i = 0; i < memory.size(); ++i)
      inputs_[i] = outputs_[i] = memory[i] + (from - before) * width;
    reduce(reduction, inputs_, outputs_, to - from);
  }
}

/// Step staged(k) says: my chunk k is there, and my range of chunk k - 1 is reduced everywhere. So
/// when all are at staged(k), nobody but its owner touches chunk k - 1 any more.
Ticket ShmCommunicator::shared_rounds(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                      Reduction reduction, bool first_staged) {
  const Group& group = *group_;
  const size_t width = bytes_of(reduction.dtype), total = count_in(segments);
  const size_t per_round = kChunkBytes / width, rounds = rounds_for(total, per_round);
  Cursor in(segments, width), out(segments, width);
  for (size_t k = 0; k <= rounds + 1; ++k) {
    // Here chunk k is staged, chunk k - 1 reduced, chunk k - 2 copied out.
    const size_t count = k < rounds ? std::min(per_round, total - k * per_round) : 0;
    std::byte* const chunk = chunk_of(group.self, k);
    const bool skip = k == 0 && first_staged;
    in.take(count, [&](std::byte* data, size_t n, size_t at) {
      if (!skip) std::memcpy(chunk + at * width, data, n * width);
    });
    if (k >= 1 && k <= rounds) {
      const uint64_t there = word_of(tag, staged(k - 1));
      HORA_CO_TRY(co_await lane.until(
          [&group, there, next = size_t{0}]() mutable { return group.all_reached(there, next); }));
      const size_t elements = std::min(per_round, total - (k - 1) * per_round);
      const Range mine = range_of(elements, group.self, group.size(), width);
      for (size_t i = 0; i < group.size(); ++i)
        inputs_[i] = outputs_[i] = chunk_of(i, k - 1) + mine.begin * width;
      if (mine.end > mine.begin) reduce(reduction, inputs_, outputs_, mine.end - mine.begin);
    }
    if (!skip && k <= rounds) publish_step(tag, staged(k));
    if (k < 2) continue;
    if (k == rounds + 1) {
      const uint64_t there = word_of(tag, staged(rounds));
      HORA_CO_TRY(co_await lane.until(
          [&group, there, next = size_t{0}]() mutable { return group.all_reached(there, next); }));
    }
    const std::byte* const result = chunk_of(group.self, k - 2);
    out.take(std::min(per_round, total - (k - 2) * per_round),
             [&](std::byte* data, size_t n, size_t at) {
               std::memcpy(data, result + at * width, n * width);
             });
  }
  co_return Status();
}

}  // namespace hora::shm
