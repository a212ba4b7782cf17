// Goal: an elastic job begins, goes on, grows, shrinks and ends as its options say, whatever order
// things happen in. Method: events into a Roster with a clock turned by hand; exact actions out;
// random histories, whose laws hold at every step.
#include "launcher/roster.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace hora {
namespace {

using Kind = RosterAction::Kind;
constexpr int64_t kSecond = 1'000'000'000;

RosterOptions options_for(int start, int least, int most) {
  RosterOptions options;
  options.start_ranks = start;
  options.min_ranks = least;
  options.max_ranks = most;
  options.slots_may_change = true;
  options.timeout = 600 * kSecond;
  options.cooldown = 5 * kSecond;
  options.grace = 15 * kSecond;
  return options;
}

/// What the roster said, as text: "start 1", "place 1 0/2 epoch 1", "change 1", ...
std::vector<std::string> taken(Roster& roster) {
  std::vector<std::string> texts;
  for (const RosterAction& action : roster.take_actions()) {
    switch (action.kind) {
      case Kind::kStart:
        texts.push_back(fmt::format("start {}", action.worker));
        break;
      case Kind::kPlace:
        texts.push_back(fmt::format("place {} {}/{} epoch {}", action.worker, action.place.rank,
                                    action.place.size, action.epoch));
        break;
      case Kind::kLeave:
        texts.push_back(fmt::format("leave {}", action.worker));
        break;
      case Kind::kChange:
        texts.push_back(fmt::format("change {}", action.epoch));
        break;
      case Kind::kStop:
        texts.push_back(fmt::format("stop {}", action.worker));
        break;
      case Kind::kSay:
        break;
      case Kind::kFail:
        texts.push_back("fail: " + action.text);
        break;
    }
  }
  return texts;
}

using Texts = std::vector<std::string>;

std::vector<HostSlots> one_host(int count) {
  return {{"here", count}};
}

/// Three workers that have met in epoch 1.
Roster three(const RosterOptions& options) {
  Roster roster(options);
  roster.slots(0, one_host(3));
  for (int worker = 1; worker <= 3; ++worker) roster.asked(0, worker, 1);
  EXPECT_EQ(taken(roster), (Texts{"start 1", "start 2", "start 3", "place 1 0/3 epoch 1",
                                  "place 2 1/3 epoch 1", "place 3 2/3 epoch 1"}));
  return roster;
}

TEST(Roster, BeginsWhenThereAreEnoughSlotsAndEveryWorkerHasAsked) {
  Roster roster(options_for(2, 2, 4));
  roster.slots(0, one_host(1));
  EXPECT_EQ(taken(roster), Texts{});
  roster.slots(0, one_host(3));
  EXPECT_EQ(taken(roster), (Texts{"start 1", "start 2", "start 3"}));
  roster.asked(0, 3, 1);
  roster.asked(0, 1, 1);
  EXPECT_EQ(taken(roster), Texts{});
  roster.asked(0, 2, 1);
  EXPECT_EQ(taken(roster),
            (Texts{"place 1 0/3 epoch 1", "place 2 1/3 epoch 1", "place 3 2/3 epoch 1"}));
}

TEST(Roster, SurvivorsMeetAgainAtOnceAndKeepTheirOrder) {
  Roster roster = three(options_for(3, 2, 3));
  roster.ended(kSecond, 1, false);
  EXPECT_EQ(taken(roster), Texts{});  // its slot rests
  roster.asked(kSecond, 3, 2);
  EXPECT_EQ(taken(roster), Texts{});
  roster.asked(kSecond, 2, 2);
  EXPECT_EQ(taken(roster), (Texts{"place 2 0/2 epoch 2", "place 3 1/2 epoch 2"}));
}

TEST(Roster, AReplacementJoinsWhenItIsReadyAndNotBefore) {
  Roster roster = three(options_for(3, 2, 3));
  roster.ended(kSecond, 2, false);
  for (const int worker : {1, 3}) roster.asked(kSecond, worker, 2);
  (void)roster.take_actions();
  EXPECT_EQ(roster.wake_at(), 6 * kSecond);
  roster.tick(6 * kSecond);
  EXPECT_EQ(taken(roster), Texts{"start 4"});
  roster.asked(9 * kSecond, 4, 1);
  EXPECT_EQ(taken(roster), Texts{"change 2"});
  for (const int worker : {3, 1}) roster.asked(10 * kSecond, worker, 3);
  EXPECT_EQ(taken(roster),
            (Texts{"place 1 0/3 epoch 3", "place 3 1/3 epoch 3", "place 4 2/3 epoch 3"}));
}

TEST(Roster, WithTooFewSurvivorsTheReplacementIsWaitedFor) {
  Roster roster = three(options_for(3, 3, 3));
  roster.ended(kSecond, 2, false);
  for (const int worker : {1, 3}) roster.asked(kSecond, worker, 2);
  EXPECT_EQ(taken(roster), Texts{});
  roster.tick(6 * kSecond);
  EXPECT_EQ(taken(roster), Texts{"start 4"});
  roster.asked(9 * kSecond, 4, 1);
  EXPECT_EQ(taken(roster),
            (Texts{"place 1 0/3 epoch 2", "place 3 1/3 epoch 2", "place 4 2/3 epoch 2"}));
}

TEST(Roster, TooFewForTooLongEndsTheJob) {
  Roster roster = three(options_for(3, 3, 3));
  roster.slots(0, one_host(2));  // rank 2 has no place any longer
  EXPECT_EQ(taken(roster), Texts{"change 1"});
  for (int worker = 1; worker <= 3; ++worker) roster.asked(kSecond, worker, 2);
  roster.tick(600 * kSecond);
  EXPECT_EQ(taken(roster), Texts{});
  EXPECT_EQ(roster.wake_at(), 601 * kSecond);
  roster.tick(601 * kSecond);
  EXPECT_EQ(taken(roster), Texts{"fail: 3 of at least 3 ranks were ready to go on for 600 s "
                                 "(--elastic-timeout) (slots found: 2)"});
  EXPECT_TRUE(roster.over());
  EXPECT_FALSE(roster.succeeded());
}

TEST(Roster, AMemberThatNeverComesIsEndedAfterTheTimeoutIfTheOthersAreEnough) {
  Roster roster = three(options_for(3, 2, 3));
  for (const int worker : {2, 3}) roster.asked(kSecond, worker, 2);  // rank 0 hangs
  roster.tick(601 * kSecond - 1);
  EXPECT_EQ(taken(roster), Texts{});
  roster.tick(601 * kSecond);
  EXPECT_EQ(taken(roster), (Texts{"stop 1", "place 2 0/2 epoch 2", "place 3 1/2 epoch 2"}));
  roster.asked(602 * kSecond, 1, 2);  // too late
  EXPECT_EQ(taken(roster), Texts{"leave 1"});
  roster.ended(603 * kSecond, 1, false);
  EXPECT_EQ(taken(roster), Texts{"start 4"});
}

TEST(Roster, AMemberThatNeverComesAndIsNeededEndsTheJob) {
  Roster roster = three(options_for(3, 3, 3));
  for (const int worker : {2, 3}) roster.asked(kSecond, worker, 2);
  roster.tick(601 * kSecond);
  EXPECT_EQ(taken(roster),
            Texts{"fail: 2 of at least 3 ranks were ready to go on for 600 s (--elastic-timeout) "
                  "(slots found: 3; ranks that did not come to meet again: 0)"});
}

TEST(Roster, FewerSlotsDismissTheLastRanks) {
  Roster roster = three(options_for(3, 1, 3));
  roster.slots(0, one_host(2));
  EXPECT_EQ(taken(roster), Texts{"change 1"});
  for (const int worker : {3, 2, 1}) roster.asked(kSecond, worker, 2);
  EXPECT_EQ(taken(roster), (Texts{"leave 3", "place 1 0/2 epoch 2", "place 2 1/2 epoch 2"}));
  EXPECT_TRUE(roster.is_dismissed(3));
  roster.tick(16 * kSecond);
  EXPECT_EQ(taken(roster), Texts{"stop 3"});  // it had its time
  roster.ended(17 * kSecond, 3, false);
  for (const int worker : {1, 2}) roster.ended(20 * kSecond, worker, true);
  EXPECT_TRUE(roster.succeeded());
}

TEST(Roster, ASlotThatFailsAgainAndAgainIsNotUsedAnyMore) {
  RosterOptions options = options_for(3, 2, 3);
  options.failures_allowed = 2;
  Roster roster = three(options);
  roster.ended(0, 3, false);
  for (const int worker : {1, 2}) roster.asked(0, worker, 2);
  (void)roster.take_actions();
  roster.tick(5 * kSecond);
  EXPECT_EQ(taken(roster), Texts{"start 4"});
  roster.ended(6 * kSecond, 4, false);
  roster.tick(1000 * kSecond);
  EXPECT_EQ(taken(roster), Texts{});
  EXPECT_FALSE(roster.wake_at());
}

TEST(Roster, ASlotRestsTwiceAsLongEachTimeUpToALimit) {
  RosterOptions options = options_for(2, 1, 2);
  options.failures_allowed = 10;
  options.longest_cooldown = 12 * kSecond;
  Roster roster(options);
  roster.slots(0, one_host(2));
  for (const int worker : {1, 2}) roster.asked(0, worker, 1);
  (void)roster.take_actions();
  int64_t now = 0;
  int worker = 2;
  for (const int64_t rest : {5, 10, 12, 12}) {
    roster.ended(now, worker++, false);
    if (worker == 3) roster.asked(now, 1, 2);
    (void)roster.take_actions();
    EXPECT_EQ(roster.wake_at(), now + rest * kSecond);
    roster.tick(now + rest * kSecond - 1);
    EXPECT_EQ(taken(roster), Texts{});
    roster.tick(now += rest * kSecond);
    EXPECT_EQ(taken(roster), Texts{fmt::format("start {}", worker)});
  }
}

TEST(Roster, NoSlotLeftForTheMinimumEndsTheJobAtOnce) {
  RosterOptions options = options_for(3, 3, 3);
  options.slots_may_change = false;
  options.failures_allowed = 1;
  Roster roster = three(options);
  roster.ended(0, 2, false);
  EXPECT_EQ(taken(roster),
            Texts{"fail: 2 ranks are left, fewer than --min-np 3, and no slot to start another "
                  "(slots that failed too often: 1)"});
  EXPECT_EQ(roster.first_failed(), 2);
}

TEST(Roster, WhenAllMembersFailTheJobEndsAndDoesNotBeginAnew) {
  Roster roster = three(options_for(3, 1, 3));
  for (const int worker : {2, 1, 3}) roster.ended(0, worker, false);
  EXPECT_EQ(taken(roster),
            Texts{"fail: all ranks of epoch 1 have failed: nobody has the state any longer"});
  EXPECT_EQ(roster.first_failed(), 2);
  EXPECT_FALSE(roster.succeeded());
}

TEST(Roster, WhenAllFailBeforeTheyMeetTheJobEnds) {
  Roster roster(options_for(2, 2, 2));
  roster.slots(0, one_host(2));
  (void)roster.take_actions();
  for (const int worker : {1, 2}) roster.ended(0, worker, false);
  EXPECT_EQ(taken(roster), Texts{"fail: all ranks have failed before they had met"});
}

TEST(Roster, OnceARankHasFinishedNobodyIsStartedAndTheMinimumNoLongerCounts) {
  Roster roster = three(options_for(3, 3, 3));
  roster.ended(0, 1, true);
  roster.ended(0, 2, false);
  roster.asked(kSecond, 3, 2);
  EXPECT_EQ(taken(roster), Texts{"place 3 0/1 epoch 2"});
  roster.tick(100 * kSecond);
  EXPECT_EQ(taken(roster), Texts{});
  roster.ended(101 * kSecond, 3, true);
  EXPECT_TRUE(roster.succeeded());
}

/// Workers 1 and 2 on host a, 3 and 4 on b, which have met in epoch 1.
Roster two_hosts(const RosterOptions& options) {
  Roster roster(options);
  roster.slots(0, {{"a", 2}, {"b", 2}});
  for (int worker = 1; worker <= 4; ++worker) roster.asked(0, worker, 1);
  EXPECT_EQ(taken(roster),
            (Texts{"start 1", "start 2", "start 3", "start 4", "place 1 0/4 epoch 1",
                   "place 2 1/4 epoch 1", "place 3 2/4 epoch 1", "place 4 3/4 epoch 1"}));
  return roster;
}

TEST(Roster, StartsOnTheFirstHostsUpToTheMostAndTellsEachRankItsPlaceThere) {
  Roster roster(options_for(3, 2, 3));
  roster.slots(0, {{"a", 2}, {"b", 2}});
  std::vector<std::string> hosts;
  for (const RosterAction& action : roster.take_actions()) hosts.push_back(action.host);
  EXPECT_EQ(hosts, (Texts{"a", "a", "b"}));
  for (const int worker : {3, 1, 2}) roster.asked(0, worker, 1);
  std::vector<Place> places;
  for (const RosterAction& action : roster.take_actions()) places.push_back(action.place);
  EXPECT_EQ(places, (std::vector<Place>{
                        {1, 0, 3, 0, 2, 0, 2}, {1, 1, 3, 1, 2, 0, 1}, {1, 2, 3, 0, 1, 1, 2}}));
}

TEST(Roster, ANewRankStandsBesideThoseOfItsHost) {
  Roster roster = two_hosts(options_for(4, 2, 4));
  roster.ended(0, 2, false);
  for (const int worker : {1, 3, 4}) roster.asked(0, worker, 2);
  EXPECT_EQ(taken(roster),
            (Texts{"place 1 0/3 epoch 2", "place 3 1/3 epoch 2", "place 4 2/3 epoch 2"}));
  roster.tick(5 * kSecond);
  roster.asked(6 * kSecond, 5, 1);
  EXPECT_EQ(taken(roster), (Texts{"start 5", "change 2"}));
  for (const int worker : {1, 3, 4}) roster.asked(6 * kSecond, worker, 3);
  EXPECT_EQ(taken(roster), (Texts{"place 1 0/4 epoch 3", "place 5 1/4 epoch 3",
                                  "place 3 2/4 epoch 3", "place 4 3/4 epoch 3"}));
}

TEST(Roster, WithTheFirstHostLostTheSecondHasTheState) {
  Roster roster = two_hosts(options_for(4, 2, 4));
  roster.host_lost(0, "a");
  for (const int worker : {1, 2}) roster.ended(0, worker, false);
  for (const int worker : {3, 4}) roster.asked(0, worker, 2);
  EXPECT_EQ(taken(roster), (Texts{"place 3 0/2 epoch 2", "place 4 1/2 epoch 2"}));
  EXPECT_EQ(roster.wake_at(), 5 * kSecond);
  roster.tick(5 * kSecond);
  EXPECT_EQ(taken(roster), (Texts{"start 5", "start 6"}));
  for (const int worker : {5, 6}) roster.asked(6 * kSecond, worker, 1);
  for (const int worker : {3, 4}) roster.asked(6 * kSecond, worker, 3);
  EXPECT_EQ(taken(roster), (Texts{"change 2", "place 3 0/4 epoch 3", "place 4 1/4 epoch 3",
                                  "place 5 2/4 epoch 3", "place 6 3/4 epoch 3"}));
}

TEST(Roster, ALostHostRestsWithAllItsSlots) {
  RosterOptions options = options_for(2, 1, 2);
  Roster roster(options);
  roster.slots(0, {{"a", 1}, {"b", 3}});
  for (const int worker : {1, 2}) roster.asked(0, worker, 1);
  (void)roster.take_actions();
  roster.host_lost(0, "b");
  roster.ended(0, 2, false);
  EXPECT_EQ(taken(roster), Texts{});  // not on another slot of b
  EXPECT_EQ(roster.wake_at(), 5 * kSecond);
}

TEST(Roster, AFreeSlotOfAnotherHostIsUsedAtOnceWhileOneRests) {
  Roster roster(options_for(2, 1, 2));
  roster.slots(0, {{"a", 1}, {"b", 1}, {"c", 1}});
  for (const int worker : {1, 2}) roster.asked(0, worker, 1);
  (void)roster.take_actions();
  roster.host_lost(0, "b");
  roster.ended(0, 2, false);
  const auto actions = roster.take_actions();
  ASSERT_EQ(actions.size(), 2u);  // the first is what is told
  EXPECT_EQ(actions[1].host, "c");
  EXPECT_FALSE(roster.wake_at());
}

TEST(Roster, RanksOfAHostThatIsGoneLeaveEvenIfTheyAreTheFirst) {
  Roster roster = two_hosts(options_for(2, 1, 4));
  roster.slots(0, {{"b", 2}});
  EXPECT_EQ(taken(roster), Texts{"change 1"});
  for (int worker = 1; worker <= 4; ++worker) roster.asked(0, worker, 2);
  EXPECT_EQ(taken(roster),
            (Texts{"leave 1", "leave 2", "place 3 0/2 epoch 2", "place 4 1/2 epoch 2"}));
}

TEST(Roster, WhenAllHostsAreReplacedARankStaysUntilOthersHaveItsState) {
  Roster roster = two_hosts(options_for(2, 2, 4));
  roster.slots(0, {{"c", 2}});
  EXPECT_EQ(taken(roster), (Texts{"start 5", "start 6", "change 1"}));
  for (int worker = 1; worker <= 4; ++worker) roster.asked(0, worker, 2);
  EXPECT_EQ(taken(roster), Texts{});  // nobody has a slot and the state
  roster.asked(0, 5, 1);
  EXPECT_EQ(taken(roster), (Texts{"leave 2", "leave 3", "leave 4", "place 1 0/2 epoch 2",
                                  "place 5 1/2 epoch 2", "change 2"}));
  roster.asked(0, 6, 1);
  for (const int worker : {1, 5}) roster.asked(0, worker, 3);
  EXPECT_EQ(taken(roster), (Texts{"leave 1", "place 5 0/2 epoch 3", "place 6 1/2 epoch 3"}));
}

TEST(Roster, ThereIsALimitToMeetingAgain) {
  RosterOptions options = options_for(3, 1, 3);
  options.reset_limit = 1;
  Roster roster = three(options);
  roster.ended(0, 3, false);
  for (const int worker : {1, 2}) roster.asked(0, worker, 2);
  EXPECT_EQ(taken(roster), (Texts{"place 1 0/2 epoch 2", "place 2 1/2 epoch 2"}));
  roster.ended(0, 2, false);
  roster.asked(0, 1, 3);
  EXPECT_EQ(taken(roster), Texts{"fail: the ranks have met again once, which is the limit "
                                 "(--reset-limit)"});
}

TEST(Roster, InRandomHistoriesEveryEpochIsWholeAndNoWorkerIsForgotten) {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    std::mt19937 random(seed);
    const int hosts = seed % 3 == 0 ? 1 : 2;
    RosterOptions options = options_for(2, 2, 4);
    options.failures_allowed = 50;
    if (seed % 2 == 0) options.timeout = 20 * kSecond;
    Roster roster(options);
    std::set<int> running;
    std::map<int, bool> asked;
    std::map<int, uint64_t> asks;
    std::set<int> members;
    std::map<int, std::string> host_of;
    int64_t now = 0;
    for (int step = 0; step < 200 && !roster.over(); ++step) {
      now += static_cast<int64_t>(random() % 3) * kSecond;
      const auto pick = [&]() -> int {
        if (running.empty()) return 0;
        return *std::next(running.begin(), static_cast<int>(random() % running.size()));
      };
      const int worker = pick();
      switch (random() % 8) {
        case 0:
          if (hosts == 1) {
            roster.slots(now, one_host(static_cast<int>(2 + random() % 4)));
          } else {
            const auto some = [&] { return static_cast<int>(random() % 4); };
            roster.slots(now, {{"a", some()}, {"b", 1 + some()}});
          }
          break;
        case 1:
          if (worker == 0 || running.size() < 3) break;
          running.erase(worker), members.erase(worker), asked.erase(worker);
          roster.ended(now, worker, false);
          break;
        case 2:
          roster.tick(now);
          break;
        default:
          if (worker == 0 || asked[worker]) break;
          asked[worker] = true;
          roster.asked(now, worker, ++asks[worker]);
      }
      int size = 0, placed = 0;
      Texts order;  // of hosts
      for (const RosterAction& action : roster.take_actions()) {
        if (action.kind == Kind::kStart) {
          EXPECT_TRUE(running.insert(action.worker).second) << "seed " << seed;
          host_of[action.worker] = action.host;
        } else if (action.kind == Kind::kPlace) {
          EXPECT_TRUE(running.count(action.worker) && asked[action.worker]) << "seed " << seed;
          EXPECT_EQ(action.ask, asks[action.worker]) << "seed " << seed;
          EXPECT_EQ(action.place.rank, placed++) << "seed " << seed;
          if (action.place.rank == 0 && !members.empty()) {
            EXPECT_TRUE(members.count(action.worker)) << "seed " << seed;
          }
          const std::string& host = host_of[action.worker];
          if (order.empty() || order.back() != host) {
            EXPECT_EQ(std::count(order.begin(), order.end(), host), 0) << "seed " << seed;
            EXPECT_EQ(action.place.local_rank, 0) << "seed " << seed;
            order.push_back(host);
          }
          size = action.place.size;
          asked[action.worker] = false;
          if (action.place.rank == 0) members.clear();
          members.insert(action.worker);
        } else if (action.kind == Kind::kStop || action.kind == Kind::kLeave) {
          EXPECT_TRUE(roster.is_dismissed(action.worker) || !running.count(action.worker));
        }
      }
      EXPECT_EQ(placed, size) << "seed " << seed;
      EXPECT_LE(size, options.max_ranks + (hosts == 1 ? 0 : 1)) << "seed " << seed;
      if (size > 0) {
        EXPECT_GE(size, options.min_ranks) << "seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace hora
