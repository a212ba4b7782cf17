#include "ops/local/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "ops/kernels/reduce.h"

namespace hora::local {

LocalCommunicator::LocalCommunicator(std::shared_ptr<Hub> hub, std::vector<Seat*> seats,
                                     std::vector<Bell> bells, int rank)
    : hub_(std::move(hub)),
      seats_(std::move(seats)),
      bells_(std::move(bells)),
      rank_(rank),
      places_(seats_.size()),
      inputs_(seats_.size()),
      cursors_(seats_.size()) {}

template <class Word>
bool LocalCommunicator::everyone(Word word, uint64_t number) const {
  return std::all_of(seats_.begin(), seats_.end(),
                     [&](const Seat* seat) { return word(*seat, number); });
}

bool LocalCommunicator::somebody_works_on(uint64_t number) const {
  return std::any_of(seats_.begin(), seats_.end(), [&](const Seat* seat) {
    return seat->working.load() == number && seat->done.load() < number;
  });
}

void LocalCommunicator::ring_others() const {
  for (size_t i = 0; i < bells_.size(); ++i) {
    if (static_cast<int>(i) != rank_) bells_[i].ring();
  }
}

// An operation: lend, meet, work, meet. Nobody leaves before all have worked, so a seat that has
// posted this number keeps it until I am done: `posted` is compared with ==, and `done`, which
// moves on with its rank's later operations, with >=.
//
// Abort: whoever gives up withdraws its loan. A member that begins to work says so first and then
// looks for withdrawn loans; who withdraws looks for workers afterwards. Sequentially consistent
// words, so at least one of the two sees the other: either the worker stops short (and waits for
// its own abort), or the withdrawer waits for the worker.
template <class Work>
Ticket LocalCommunicator::together(Lane& lane, uint64_t tag, Loan loan, Work work) {
  const uint64_t number = tag + 1;
  const auto posted = [](const Seat& seat, uint64_t n) { return seat.posted.load() == n; };
  const auto done = [](const Seat& seat, uint64_t n) { return seat.done.load() >= n; };
  Seat& mine = *seats_[static_cast<size_t>(rank_)];
  mine.loan = loan;
  mine.posted.store(number);
  ring_others();
  Status status = co_await lane.until([&] { return everyone(posted, number); });
  if (status.ok()) {
    mine.working.store(number);
    if (everyone(posted, number)) {
      work();
      mine.done.store(number);
      ring_others();
      status = co_await lane.until([&] { return everyone(done, number); });
    } else {
      mine.working.store(0);
      ring_others();
      status = co_await lane.until([] { return false; });
    }
  }
  if (!status.ok()) {
    mine.posted.store(Seat::kWithdrawn);
    HORA_CO_TRY(co_await lane.settle([&] { return !somebody_works_on(number); }));
  }
  co_return status;
}

Ticket LocalCommunicator::allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                    const Reduction& reduction) {
  return together(lane, tag, {.segments = segments},
                  [this, reduction] { reduce_my_range(reduction); });
}

Ticket LocalCommunicator::reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input,
                                         std::byte* output, std::span<const size_t> counts,
                                         const Reduction& reduction) {
  return together(lane, tag, {.input = input},
                  [this, output, counts, reduction] { reduce_my_part(output, counts, reduction); });
}

Ticket LocalCommunicator::allgather(Lane& lane, uint64_t tag, const std::byte* input,
                                    std::byte* output, std::span<const size_t> bytes) {
  return together(lane, tag, {.input = input}, [this, output, bytes] {
    std::byte* to = output;
    for (size_t i = 0; i < bytes.size(); to += bytes[i++]) {
      if (bytes[i] != 0 && loan(i).input != to) std::memcpy(to, loan(i).input, bytes[i]);
    }
  });
}

Ticket LocalCommunicator::alltoall(Lane& lane, uint64_t tag, const std::byte* input,
                                   std::span<const size_t> send, std::byte* output,
                                   std::span<const size_t> receive) {
  return together(lane, tag, {.input = input, .parts = send}, [this, output, receive] {
    std::byte* to = output;
    for (size_t i = 0; i < receive.size(); to += receive[i++]) {
      const auto before = loan(i).parts.first(static_cast<size_t>(rank_));
      const size_t offset = std::accumulate(before.begin(), before.end(), size_t{0});
      if (receive[i] != 0) std::memcpy(to, loan(i).input + offset, receive[i]);
    }
  });
}

Ticket LocalCommunicator::broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                                    int root) {
  return together(lane, tag, {.segments = segments}, [this, segments, root] {
    if (rank_ != root) copy_from_root(segments, static_cast<size_t>(root));
  });
}

Ticket LocalCommunicator::barrier(Lane& lane, uint64_t tag) {
  return together(lane, tag, {}, [] {});
}

// Range r of n is [total * r / n, total * (r + 1) / n). A piece ends where any member's segment
// does.
void LocalCommunicator::reduce_my_range(const Reduction& reduction) {
  size_t total = 0;
  for (const Segment& segment : loan(static_cast<size_t>(rank_)).segments) total += segment.count;
  const size_t n = seats_.size(), r = static_cast<size_t>(rank_);
  const size_t first = total / n * r + total % n * r / n;
  size_t left = total / n * (r + 1) + total % n * (r + 1) / n - first;
  if (left == 0) return;

  const size_t width = bytes_of(reduction.dtype);
  std::fill(cursors_.begin(), cursors_.end(), Cursor{0, first});
  while (left > 0) {
    size_t piece = left;
    for (size_t i = 0; i < n; ++i) {
      Cursor& at = cursors_[i];
      const auto segments = loan(i).segments;
      while (at.offset >= segments[at.segment].count) at.offset -= segments[at.segment++].count;
      places_[i] = segments[at.segment].data + at.offset * width;
      piece = std::min(piece, segments[at.segment].count - at.offset);
    }
    std::copy(places_.begin(), places_.end(), inputs_.begin());
    reduce(reduction, inputs_, places_, piece);
    for (Cursor& at : cursors_) at.offset += piece;
    left -= piece;
  }
}

void LocalCommunicator::reduce_my_part(std::byte* output, std::span<const size_t> counts,
                                       const Reduction& reduction) {
  const auto before = counts.first(static_cast<size_t>(rank_));
  const size_t offset = std::accumulate(before.begin(), before.end(), size_t{0});
  const size_t count = counts[static_cast<size_t>(rank_)];
  if (count == 0) return;
  for (size_t i = 0; i < seats_.size(); ++i) {
    inputs_[i] = loan(i).input + offset * bytes_of(reduction.dtype);
  }
  reduce(reduction, inputs_, {&output, 1}, count);
}

void LocalCommunicator::copy_from_root(std::span<const Segment> segments, size_t root) const {
  const auto source = loan(root).segments;
  Cursor from;
  for (const Segment& to : segments) {
    for (size_t filled = 0; filled < to.count;) {
      while (from.offset == source[from.segment].count) from = {from.segment + 1, 0};
      const size_t piece = std::min(to.count - filled, source[from.segment].count - from.offset);
      std::memcpy(to.data + filled, source[from.segment].data + from.offset, piece);
      filled += piece;
      from.offset += piece;
    }
  }
}

}  // namespace hora::local
