// Goal: the delayed backend has the shape of a GPU, or what is tested with it is not tested.
// Method: one rank alone with two lanes; an inner backend whose operations end when they are told
// to.

#include "ops/delayed/delayed.h"

#include <array>
#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "ops/local/local.h"
#include "tests/support/run_ranks.h"

namespace hora {
namespace {

const std::array<Rank, 1> kAlone = {0};

TEST(Delayed, LetsOperationsOvertakeEachOtherAcrossLanes) {
  const auto backend = delayed::wrap(local::open(local::make_hub(1), 0), 7);
  const auto first = std::move(backend->communicator(0, kAlone, 0)).value();
  const auto second = std::move(backend->communicator(0, kAlone, 1)).value();
  Lane lanes[2] = {Lane(0), Lane(1)};
  int first_won = 0, second_won = 0;
  for (uint64_t tag = 1; tag <= 3000 && (first_won == 0 || second_won == 0); ++tag) {
    lanes[0].start(first->barrier(lanes[0], tag));
    lanes[1].start(second->barrier(lanes[1], tag));
    while (!lanes[0].idle() && !lanes[1].idle()) {
      lanes[0].progress();
      lanes[1].progress();
      std::this_thread::yield();
    }
    if (!lanes[1].idle()) ++first_won;
    if (!lanes[0].idle()) ++second_won;
    Lane* const both[] = {&lanes[0], &lanes[1]};
    support::drive(both);
  }
  EXPECT_GT(first_won, 0);
  EXPECT_GT(second_won, 0);
}

TEST(Delayed, WorksOnAnotherThreadAndReturnsFromStartAtOnce) {
  const auto hub = local::make_hub(2);
  const auto backend = delayed::wrap(local::open(hub, 0), 7);
  const std::array<Rank, 2> both = {0, 1};
  const auto communicator = std::move(backend->communicator(0, both, 0)).value();
  Lane lane(0);
  lane.start(communicator->barrier(lane, 1));
  EXPECT_FALSE(lane.idle());
  const auto peer = local::open(hub, 1);
  const auto other = std::move(peer->communicator(0, both, 0)).value();
  Lane other_lane(0);
  // Rank 0's lane is not driven here: only its worker can meet rank 1.
  EXPECT_TRUE(support::run(other_lane, other->barrier(other_lane, 1)).ok());
  Lane* const lanes[] = {&lane};
  support::drive(lanes);
  EXPECT_TRUE(lane.outcome().ok());
}

TEST(Delayed, PassesTheReasonOfAnAbortOn) {
  const auto hub = local::make_hub(2);
  const auto backend = delayed::wrap(local::open(hub, 0), 7);
  const std::array<Rank, 2> both = {0, 1};
  const auto communicator = std::move(backend->communicator(0, both, 0)).value();
  Lane lane(0);
  lane.start(communicator->barrier(lane, 1));
  const Status lost(Code::kPeerLost, "test: gone");
  lane.abort(lost);
  Lane* const lanes[] = {&lane};
  support::drive(lanes);
  EXPECT_EQ(lane.outcome(), lost);
}

TEST(Delayed, EndsItsWorkerWithAnOperationUnderWay) {
  const auto backend = delayed::wrap(local::open(local::make_hub(2), 0), 7);
  const std::array<Rank, 2> both = {0, 1};
  auto communicator = std::move(backend->communicator(0, both, 0)).value();
  Lane lane(0);
  lane.start(communicator->barrier(lane, 1));
  communicator.reset();
  SUCCEED();
}

}  // namespace
}  // namespace hora
