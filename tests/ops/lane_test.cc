// Goal: a lane runs one ticket at a time, resumes it when its wait is over, and ends it on abort.
// Method: small coroutines that write down what they do, driven by hand in one thread.

#include "ops/lane.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace hora {
namespace {

const Status kLost(Code::kPeerLost, "test: gone");

Ticket wait_for(Lane& lane, const bool& gate, std::string& log, char mark) {
  log += mark;
  HORA_CO_TRY(co_await lane.until([&] { return gate; }));
  log += static_cast<char>(mark - 'a' + 'A');
  co_return Status();
}

Ticket fail(Lane&) {
  co_return Status(Code::kInternal, "test: no");
}

TEST(Lane, EndsATicketThatNeverWaitsInStart) {
  Lane lane(0);
  lane.start(fail(lane));
  EXPECT_TRUE(lane.idle());
  EXPECT_EQ(lane.outcome(), Status(Code::kInternal, "test: no"));
  EXPECT_TRUE(lane.outcome().ok()) << "an outcome is told once";
}

TEST(Lane, StartsOnlyWhatIsHandedToItAndDropsTheRest) {
  Lane lane(0);
  bool gate = true;
  std::string log;
  { const Ticket never = wait_for(lane, gate, log, 'a'); }
  EXPECT_EQ(log, "");
}

TEST(Lane, SuspendsUntilTheGateOpens) {
  Lane lane(0);
  bool gate = false;
  std::string log;
  lane.start(wait_for(lane, gate, log, 'a'));
  EXPECT_FALSE(lane.idle());
  EXPECT_FALSE(lane.progress());
  EXPECT_EQ(log, "a");
  gate = true;
  EXPECT_TRUE(lane.progress());
  EXPECT_EQ(log, "aA");
  EXPECT_TRUE(lane.idle());
  EXPECT_TRUE(lane.outcome().ok());
  EXPECT_FALSE(lane.progress());
}

Ticket nest(Lane& lane, const bool* gates, std::string& log) {
  HORA_CO_TRY(co_await wait_for(lane, gates[0], log, 'a'));
  HORA_CO_TRY(co_await wait_for(lane, gates[1], log, 'b'));
  const Status refused = co_await fail(lane);
  log += refused.ok() ? '?' : '!';
  HORA_CO_TRY(co_await wait_for(lane, gates[2], log, 'c'));
  co_return Status(Code::kTimeout, "test: end");
}

TEST(Lane, RunsNestedTicketsInOrderAndGivesTheirStatusToTheOuterOne) {
  Lane lane(0);
  bool gates[3] = {};
  std::string log;
  lane.start(nest(lane, gates, log));
  EXPECT_EQ(log, "a");
  gates[1] = true;
  EXPECT_FALSE(lane.progress()) << "the gate of a later ticket resumed an earlier one";
  gates[0] = true;
  EXPECT_TRUE(lane.progress());
  EXPECT_EQ(log, "aAbB!c");
  gates[2] = true;
  EXPECT_TRUE(lane.progress());
  EXPECT_EQ(log, "aAbB!cC");
  EXPECT_EQ(lane.outcome().code(), Code::kTimeout);
}

TEST(Lane, EndsEveryNestedWaitOnAbort) {
  Lane lane(0);
  bool gates[3] = {};
  std::string log;
  lane.start(nest(lane, gates, log));
  lane.abort(kLost);
  EXPECT_TRUE(lane.progress());
  EXPECT_TRUE(lane.idle());
  EXPECT_EQ(lane.outcome(), kLost);
  EXPECT_EQ(log, "a");
}

TEST(Lane, KeepsTheFirstReasonAndRefusesLaterWaitsToo) {
  Lane lane(0);
  lane.abort(kLost);
  lane.abort({Code::kShutdown, "test: later"});
  bool open = true;
  std::string log;
  lane.start(wait_for(lane, open, log, 'a'));
  EXPECT_TRUE(lane.idle());
  EXPECT_EQ(lane.outcome(), kLost);
}

Ticket settle(Lane& lane, const bool& gate) {
  const Status settled = co_await lane.settle([&] { return gate; });
  co_return settled.ok() ? Status(Code::kCorrupt, "test: settled") : settled;
}

TEST(Lane, SettlesEvenAfterAnAbort) {
  Lane lane(0);
  bool gate = false;
  lane.start(settle(lane, gate));
  lane.abort(kLost);
  EXPECT_FALSE(lane.progress());
  EXPECT_FALSE(lane.idle());
  gate = true;
  EXPECT_TRUE(lane.progress());
  EXPECT_EQ(lane.outcome().code(), Code::kCorrupt);
}

Ticket take_pauses(Lane& lane, int& steps) {
  for (int i = 0; i < 3; ++i) {
    ++steps;
    HORA_CO_TRY(co_await lane.pause());
  }
  co_return Status();
}

TEST(Lane, GivesTheDriverATurnAtEveryPause) {
  Lane lane(0);
  int steps = 0;
  lane.start(take_pauses(lane, steps));
  for (int turn = 1; turn <= 3; ++turn) {
    EXPECT_EQ(steps, turn);
    EXPECT_FALSE(lane.idle());
    EXPECT_TRUE(lane.progress());
  }
  EXPECT_TRUE(lane.idle());
  lane.abort(kLost);
  lane.start(take_pauses(lane, steps));
  EXPECT_TRUE(lane.progress());
  EXPECT_EQ(lane.outcome(), kLost);
  EXPECT_EQ(steps, 4);
}

struct Flagged {
  bool& gone;
  ~Flagged() { gone = true; }
};

Ticket hold(Lane& lane, bool& gone) {
  const Flagged flagged{gone};
  HORA_CO_TRY(co_await lane.until([] { return false; }));
  co_return Status();
}

TEST(Lane, DestroysWhatASuspendedTicketHolds) {
  bool gone = false;
  {
    Lane lane(0);
    lane.start(hold(lane, gone));
    EXPECT_FALSE(gone);
  }
  EXPECT_TRUE(gone);
}

Ticket note_frame(Lane& lane, uintptr_t& where) {
  char local = 0;
  where = reinterpret_cast<uintptr_t>(&local);
  HORA_CO_TRY(co_await lane.pause());
  local = 1;
  co_return local == 1 ? Status() : Status(Code::kInternal, "");
}

TEST(Lane, ReusesTheFrameOfThePreviousTicket) {
  Lane lane(0);
  uintptr_t first = 0, later = 0;
  lane.start(note_frame(lane, first));
  while (!lane.idle()) lane.progress();
  for (int i = 0; i < 10; ++i) {
    lane.start(note_frame(lane, later));
    while (!lane.idle()) lane.progress();
    EXPECT_EQ(later, first);
  }
}

Ticket deep(Lane& lane, int levels, int& bottom) {
  if (levels == 0) {
    ++bottom;
    co_return co_await lane.pause();
  }
  co_return co_await deep(lane, levels - 1, bottom);
}

TEST(Lane, KeepsMoreFramesThanItStoresApart) {
  Lane lane(0);
  int bottom = 0;
  for (int round = 0; round < 3; ++round) {
    lane.start(deep(lane, 50, bottom));
    while (!lane.idle()) lane.progress();
    EXPECT_TRUE(lane.outcome().ok());
  }
  EXPECT_EQ(bottom, 3);
}

TEST(Lane, KeepsScratchBySlotUntilTheSlotGrows) {
  Lane lane(0);
  const auto small = lane.scratch(0, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data()) % 64, 0u);
  EXPECT_EQ(small.size(), 100u);
  std::memset(small.data(), 7, small.size());
  const auto other = lane.scratch(3, 100);
  std::memset(other.data(), 8, other.size());
  const auto again = lane.scratch(0, 50);
  EXPECT_EQ(again.data(), small.data());
  EXPECT_EQ(again[49], std::byte{7});
  const auto large = lane.scratch(0, 100000);
  std::memset(large.data(), 9, large.size());
  EXPECT_EQ(lane.scratch(3, 100)[99], std::byte{8});
}

}  // namespace
}  // namespace hora
