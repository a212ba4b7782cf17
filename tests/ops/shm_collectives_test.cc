// What is particular to shared memory: every path of the collectives (slots, chunks, arenas,
// mixtures of them) gives the exact sum wherever segments lie and however they are cut; memory is
// not reused before the slowest reader is done, also when sets overlap; every step rings those who
// sleep; an abort ends every wait. Inputs are small integers, so sums are exact. Drivers sleep at
// once: a bell that is not rung is a failure.
#include <sched.h>

#include <random>

#include <gtest/gtest.h>

#include "ops/cursor.h"
#include "ops/shm/runs.h"
#include "tests/ops/shm_ranks.h"

namespace hora::shm {
namespace {

using Near = std::shared_ptr<Neighborhood>;

/// One rank's backend, lane and communicator for all ranks.
struct Seat {
  explicit Seat(const Near& met)
      : near(met),
        backend(open(met)),
        me(met->options().rank),
        size(static_cast<int>(met->options().ranks.size())),
        bell(met->bell(me)),
        all(backend->communicator(0, met->options().ranks, 0).value()) {}
  void run(Ticket ticket) {
    lane.start(std::move(ticket));
    const Status status = drive_asleep(lane, bell);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  Near near;
  std::unique_ptr<Backend> backend;
  Rank me;
  int size;
  Bell bell;
  std::unique_ptr<Communicator> all;
  Lane lane{0};
  uint64_t sequence = 0;
  uint64_t tag() { return Tag::of(++sequence, 0); }
};

float input(Rank rank, size_t index, uint64_t tag) {
  return static_cast<float>((index * 31 + static_cast<size_t>(rank) * 17 + tag) % 251);
}
float sum(int size, size_t index, uint64_t tag) {
  float total = 0;
  for (Rank rank = 0; rank < size; ++rank) total += input(rank, index, tag);
  return total;
}

std::vector<Segment> segments_of(std::span<const std::span<float>> parts) {
  std::vector<Segment> segments;
  for (const auto part : parts)
    segments.push_back({reinterpret_cast<std::byte*>(part.data()), part.size()});
  return segments;
}

void check_allreduce(Seat& seat, std::span<const std::span<float>> parts) {
  const uint64_t tag = seat.tag();
  size_t index = 0;
  for (const auto part : parts)
    for (float& value : part) value = input(seat.me, index++, tag);
  const std::vector<Segment> segments = segments_of(parts);
  seat.run(seat.all->allreduce(seat.lane, tag, segments, Reduction{}));
  index = 0;
  for (const auto part : parts)
    for (const float value : part) {
      ASSERT_EQ(value, sum(seat.size, index, tag)) << "element " << index;
      ++index;
    }
}

/// Cuts [0, count) at random places, differently on every rank; each part lies in private memory or
/// in the arena as `where` says.
enum class Where { kPrivate, kArena, kMixed };
void check_cuts(Seat& seat, size_t count, Where where) {
  std::mt19937 random(static_cast<unsigned>(seat.me + 1) * 77 + static_cast<unsigned>(count));
  std::vector<std::vector<float>> own;
  std::vector<std::span<float>> parts;
  for (size_t left = count; left > 0;) {
    const size_t part = std::min<size_t>(left, 1 + random() % (count / 3 + 1));
    if (where == Where::kArena || (where == Where::kMixed && random() % 2)) {
      const auto memory = seat.backend->arena(part * sizeof(float)).value();
      parts.emplace_back(reinterpret_cast<float*>(memory.data()), part);
    } else {
      parts.emplace_back(own.emplace_back(part));
    }
    parts.emplace_back();  // an empty segment changes nothing
    left -= part;
  }
  for (int again = 0; again < 3; ++again) ASSERT_NO_FATAL_FAILURE(check_allreduce(seat, parts));
}

void check_all_paths(const Near& near) {
  Seat seat(near);
  for (const size_t count : {1u, 3u, 63u, 4096u, 4097u, 20000u, 65536u, 300001u})
    for (const Where where : {Where::kPrivate, Where::kArena, Where::kMixed})
      ASSERT_NO_FATAL_FAILURE(check_cuts(seat, count, where)) << count << " elements";
}

TEST(ShmCollectives, AllreduceIsExactWhereverSegmentsLieForFewThreads) {
  in_threads(2, check_all_paths);
}
TEST(ShmCollectives, AllreduceIsExactWhereverSegmentsLieForManyThreads) {
  in_threads(6, check_all_paths);
}
TEST(ShmCollectives, AllreduceIsExactWhereverSegmentsLieForProcesses) {
  in_processes(3, check_all_paths);
}

TEST(ShmCollectives, MoreSegmentsThanCanBeDescribedAreStillReduced) {
  in_threads(2, [](const Near& near) {
    Seat seat(near);
    const size_t count = 2 * kRuns + 10;
    auto* memory = reinterpret_cast<float*>(seat.backend->arena(count * 64).value().data());
    std::vector<std::span<float>> parts;
    for (size_t i = 0; i < count; ++i) parts.emplace_back(memory + i * 16, 5);
    check_allreduce(seat, parts);
  });
}

TEST(ShmCollectives, ArenaSlicesThatAreReducedInPlaceStayPrivateToTheirRank) {
  in_threads(2, [](const Near& near) {
    Seat seat(near);
    auto* slice =
        reinterpret_cast<float*>(seat.backend->arena(100000 * sizeof(float)).value().data());
    const std::span<float> part(slice, 100000);
    check_allreduce(seat, {&part, 1});
    const float before = slice[77];
    if (seat.me == 0)
      for (float& value : part) value *= 2;  // a clip in place must not reach the other rank
    seat.run(seat.all->barrier(seat.lane, seat.tag()));
    EXPECT_EQ(slice[77], seat.me == 0 ? 2 * before : before);
  });
}

/// A rank sleeps between steps at random: whoever is ahead must not overwrite what it has not read.
TEST(ShmCollectives, NothingIsOverwrittenBeforeASlowMemberHasReadIt) {
  in_threads(3, [](const Near& near) {
    Seat seat(near);
    const std::vector<Rank> pair = seat.me == 0 ? std::vector<Rank>{0, 1} : std::vector<Rank>{1, 2};
    auto low = seat.me <= 1 ? seat.backend->communicator(1, std::vector<Rank>{0, 1}, 0) : Status();
    auto high = seat.me >= 1 ? seat.backend->communicator(2, std::vector<Rank>{1, 2}, 0) : Status();
    std::mt19937 random(static_cast<unsigned>(seat.me));
    std::vector<float> values;
    for (int turn = 0; turn < 600; ++turn) {
      const uint64_t tag = seat.tag();
      const int set = turn * 7 % 5 % 3;
      if ((set == 1 && seat.me == 2) || (set == 2 && seat.me == 0)) continue;
      Communicator& group = set == 0 ? *seat.all : set == 1 ? *low.value() : *high.value();
      values.resize(turn % 4 == 0 ? 90000 : 11);
      for (size_t i = 0; i < values.size(); ++i) values[i] = input(seat.me, i, tag);
      const Segment segment{reinterpret_cast<std::byte*>(values.data()), values.size()};
      seat.lane.start(group.allreduce(seat.lane, tag, {&segment, 1}, Reduction{}));
      while (!seat.lane.idle()) {
        for (auto naps = random() % 8; naps > 0; --naps) ::sched_yield();
        seat.lane.progress();
      }
      ASSERT_TRUE(seat.lane.outcome().ok());
      for (size_t i = 0; i < values.size(); ++i) {
        float expected = 0;
        for (Rank r = set == 2 ? 1 : 0; r <= (set == 1 ? 1 : 2); ++r) expected += input(r, i, tag);
        ASSERT_EQ(values[i], expected) << "turn " << turn << " set " << set << " element " << i;
      }
    }
  });
}

/// Every member's part has a length of its own; `value(from, to, i)` is what goes from one to
/// another.
std::byte value(int from, int to, size_t index) {
  return std::byte((index * 7 + static_cast<size_t>(from) * 31 + static_cast<size_t>(to) * 57) %
                   256);
}

void check_moves(const Near& near) {
  Seat seat(near);
  const auto n = static_cast<size_t>(seat.size);
  const auto me = static_cast<size_t>(seat.me);
  for (const size_t unit : {0u, 1u, 1000u, 400000u}) {
    const auto length = [&](size_t from, size_t to) { return unit * ((from + 2 * to) % 3); };
    std::vector<size_t> send(n), receive(n), parts(n);
    std::vector<std::byte> input, output, mine, gathered;
    for (size_t r = 0; r < n; ++r) {
      send[r] = length(me, r);
      receive[r] = length(r, me);
      parts[r] = unit * (r % 3);
      for (size_t i = 0; i < send[r]; ++i) input.push_back(value(seat.me, static_cast<int>(r), i));
      output.resize(output.size() + receive[r]);
      gathered.resize(gathered.size() + parts[r]);
    }
    for (size_t i = 0; i < parts[me]; ++i) mine.push_back(value(seat.me, 0, i));
    seat.run(seat.all->alltoall(seat.lane, seat.tag(), input.data(), send, output.data(), receive));
    seat.run(seat.all->allgather(seat.lane, seat.tag(), mine.data(), gathered.data(), parts));
    for (size_t r = 0, at = 0; r < n; at += receive[r++])
      for (size_t i = 0; i < receive[r]; ++i)
        ASSERT_EQ(output[at + i], value(static_cast<int>(r), seat.me, i)) << "from " << r;
    for (size_t r = 0, at = 0; r < n; at += parts[r++])
      for (size_t i = 0; i < parts[r]; ++i)
        ASSERT_EQ(gathered[at + i], value(static_cast<int>(r), 0, i)) << "from " << r;
    for (int root = 0; root < seat.size; ++root) {
      std::vector<std::byte> bytes(3 * unit + 5);
      for (size_t i = 0; root == seat.me && i < bytes.size(); ++i) bytes[i] = value(root, 9, i);
      const Segment cut[] = {{bytes.data(), unit + me},
                             {bytes.data() + unit + me, 2 * unit + 5 - me}};
      seat.run(seat.all->broadcast(seat.lane, seat.tag(), cut, root));
      for (size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], value(root, 9, i));
    }
  }
}

TEST(ShmCollectives, PartsOfAnyLengthReachTheirMembersInThreads) {
  in_threads(4, check_moves);
}
TEST(ShmCollectives, PartsOfAnyLengthReachTheirMembersInProcesses) {
  in_processes(3, check_moves);
}

void check_scatter(const Near& near) {
  Seat seat(near);
  for (const size_t unit : {1u, 1000u, 150000u}) {
    std::vector<size_t> counts;
    size_t total = 0, before = 0;
    for (int r = 0; r < seat.size; ++r) {
      if (r == seat.me) before = total;
      counts.push_back(unit * static_cast<size_t>(r % 3));
      total += counts.back();
    }
    const uint64_t tag = seat.tag();
    std::vector<float> in(total + 1), out(counts[static_cast<size_t>(seat.me)] + 1);
    for (size_t i = 0; i < total; ++i) in[i] = input(seat.me, i, tag);
    seat.run(seat.all->reduce_scatter(seat.lane, tag, reinterpret_cast<std::byte*>(in.data()),
                                      reinterpret_cast<std::byte*>(out.data()), counts,
                                      Reduction{}));
    for (size_t i = 0; i + 1 < out.size(); ++i)
      ASSERT_EQ(out[i], sum(seat.size, before + i, tag)) << "element " << i;
    EXPECT_EQ(out.back(), 0) << "wrote past the end";
  }
}

TEST(ShmCollectives, EachMemberGetsItsPartOfTheSumInThreads) {
  in_threads(5, check_scatter);
}
TEST(ShmCollectives, EachMemberGetsItsPartOfTheSumInProcesses) {
  in_processes(2, check_scatter);
}

TEST(ShmCollectives, OneMemberScalesAlone) {
  in_threads(1, [](const Near& near) {
    Seat seat(near);
    float values[] = {1, 2, 3};
    const Segment segment{reinterpret_cast<std::byte*>(values), 3};
    seat.run(seat.all->allreduce(seat.lane, seat.tag(), {&segment, 1},
                                 {DType::kFloat32, ReduceOp::kSum, 2, 3}));
    EXPECT_EQ(values[2], 18);
    seat.run(seat.all->barrier(seat.lane, seat.tag()));
  });
}

TEST(ShmCollectives, AnAbortEndsEveryWaitAndNothingIsPublishedAfterIt) {
  in_threads(2, [](const Near& near) {
    Seat seat(near);
    if (seat.me == 1) return;  // never comes
    for (const size_t count : {10u, 100000u}) {
      Lane lane(0);
      std::vector<float> values(count);
      const Segment segment{reinterpret_cast<std::byte*>(values.data()), count};
      const uint64_t tag = seat.tag();
      lane.start(seat.all->allreduce(lane, tag, {&segment, 1}, Reduction{}));
      ASSERT_FALSE(lane.idle());
      lane.abort({Code::kPeerLost, "rank 1 died"});
      EXPECT_EQ(drive_asleep(lane, seat.bell).code(), Code::kPeerLost);
      const uint64_t word = near->window(0).lane(0).progress.word.load();
      lane.start(seat.all->barrier(lane, tag + 1));
      EXPECT_EQ(drive_asleep(lane, seat.bell).code(), Code::kPeerLost);
      EXPECT_EQ(near->window(0).lane(0).progress.word.load(), word);
    }
  });
}

TEST(ShmCollectives, RefusesSetsAndLanesThatAreNotHere) {
  in_threads(2, [](const Near& near) {
    const auto backend = open(near);
    const std::vector<Rank> far{0, 1, 7}, ours{0, 1}, other{1 - near->options().rank};
    EXPECT_EQ(backend->communicator(1, far, 0).status().code(), Code::kUnavailable);
    EXPECT_EQ(backend->communicator(1, ours, 2).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(backend->communicator(1, other, 0).status().code(), Code::kInvalidArgument);
  });
}

TEST(ShmCollectives, ADescriptionThatMakesNoSenseIsCorrupt) {
  auto windows = std::make_unique<LaneWindow[]>(2);
  std::vector<std::byte> arena(1 << 20);
  Group group;
  for (int i = 0; i < 2; ++i)
    group.members.push_back({&windows[i], {}, arena.data(), arena.size()});
  const Segment segment{arena.data(), 1000};
  EXPECT_TRUE(describe(group.members[0], {&segment, 1}, 4));
  Split split;
  windows[1].runs.count = 1;
  const shm::Run bads[] = {
      {1 << 20, 4000}, {(1 << 20) - 8, 4000}, {~uint64_t{0} - 1, 4000}, {0, 400}, {0, 0}};
  for (const auto& bad : bads) {
    windows[1].runs.run[0] = bad;
    EXPECT_EQ(split.make(group, {&segment, 1}, 4).code(), Code::kCorrupt) << bad.offset;
  }
  windows[1].runs.run[0] = {64, 4000};
  ASSERT_TRUE(split.make(group, {&segment, 1}, 4).ok());
  EXPECT_EQ(split.common(), 1000u);
  EXPECT_EQ(split.memory(0)[1], arena.data() + 64);
}

}  // namespace
}  // namespace hora::shm
