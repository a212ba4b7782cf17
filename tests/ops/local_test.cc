// Goal: what the local backend promises beyond the conformance suite: bells, errors, and that a
// member that was aborted gets its memory back untouched.
// Method: two ranks driven by hand in one thread, so that every order of steps is ours.

#include "ops/local/local.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include "tests/support/run_ranks.h"

namespace hora {
namespace {

const Status kLost(Code::kPeerLost, "test: gone");

struct Member {
  Member(const std::shared_ptr<local::Hub>& hub, Rank rank, std::span<const Bell> bells = {})
      : backend(local::open(hub, rank, bells)) {
    const std::array<Rank, 2> both = {0, 1};
    communicator = std::move(backend->communicator(0, both, 0)).value();
    values.assign(100, static_cast<float>(rank + 1));
    segment = {reinterpret_cast<std::byte*>(values.data()), values.size()};
  }
  void start(uint64_t tag) {
    lane.start(
        communicator->allreduce(lane, tag, {&segment, 1}, {DType::kFloat32, ReduceOp::kSum}));
  }
  bool all_are(float wanted) const {
    return std::all_of(values.begin(), values.end(), [&](float v) { return v == wanted; });
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> communicator;
  std::vector<float> values;
  Segment segment;
  Lane lane{0};
};

TEST(Local, LeavesTheMemoryOfAnAbortedMemberAlone) {
  const auto hub = local::make_hub(2);
  Member first(hub, 0), second(hub, 1);
  first.start(1);
  first.lane.abort(kLost);
  EXPECT_TRUE(first.lane.progress());
  EXPECT_TRUE(first.lane.idle());
  EXPECT_EQ(first.lane.outcome(), kLost);

  second.start(1);
  for (int i = 0; i < 100; ++i) second.lane.progress();
  EXPECT_FALSE(second.lane.idle());
  EXPECT_TRUE(first.all_are(1) && second.all_are(2));
  second.lane.abort(kLost);
  EXPECT_TRUE(second.lane.progress());
  EXPECT_EQ(second.lane.outcome(), kLost);
}

TEST(Local, EndsWellForNobodyBeforeAllHaveWorked) {
  const auto hub = local::make_hub(2);
  Member first(hub, 0), second(hub, 1);
  first.start(1);
  second.start(1);
  EXPECT_FALSE(second.lane.idle()) << "rank 0 has not reduced its half";
  Lane* const lanes[] = {&first.lane, &second.lane};
  support::drive(lanes);
  EXPECT_TRUE(first.all_are(3) && second.all_are(3));
}

TEST(Local, RingsTheOthersWhenTheyHaveToLookAgain) {
  std::array<std::atomic<uint32_t>, 2> armed = {};
  std::array<int, 2> events = {::eventfd(0, EFD_NONBLOCK), ::eventfd(0, EFD_NONBLOCK)};
  const std::array<Bell, 2> bells = {Bell(&armed[0], events[0]), Bell(&armed[1], events[1])};
  const auto hub = local::make_hub(2);
  Member first(hub, 0, bells), second(hub, 1, bells);
  first.start(1);
  bells[0].arm();
  bells[1].arm();
  second.start(1);
  EXPECT_EQ(armed[0], 0u) << "rank 1 came and did not ring";
  EXPECT_EQ(armed[1], 1u) << "a rank rang for itself";
  uint64_t rings = 0;
  EXPECT_EQ(::read(events[0], &rings, sizeof(rings)), static_cast<ssize_t>(sizeof(rings)));
  Lane* const lanes[] = {&first.lane, &second.lane};
  support::drive(lanes);
  EXPECT_EQ(armed[1], 0u) << "rank 0 worked and did not ring";
  for (const int event : events) ::close(event);
}

TEST(Local, RefusesASetThatItIsNotInAndRanksThatDoNotExist) {
  const auto backend = local::open(local::make_hub(2), 0);
  const std::array<Rank, 1> other = {1};
  EXPECT_EQ(backend->communicator(4, other, 0).status().message(),
            "local: rank 0 is no member of process set 4");
  const std::array<Rank, 2> beyond = {0, 2};
  EXPECT_EQ(backend->communicator(4, beyond, 0).status().message(),
            "local: process set 4 has rank 2, but there are 2 ranks");
}

}  // namespace
}  // namespace hora
