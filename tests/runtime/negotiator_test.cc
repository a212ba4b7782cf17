// Goal: the rules of the control plane that a random simulation cannot state exactly: texts,
// counts, who is named. Method: a few negotiators over an instant network, driven by hand.
#include "runtime/negotiator.h"

#include <deque>
#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "runtime/carried.h"

namespace hora {
namespace {

Signature shape(Shape dims) {
  Signature signature;
  signature.shapes = {std::move(dims)};
  return signature;
}

struct Cluster {
  Options options;
  std::vector<std::unique_ptr<Negotiator>> ranks;
  std::vector<std::vector<Outputs::Completion>> done;
  std::vector<std::vector<Plan>> plans;
  std::vector<std::vector<Outputs::Stall>> stalls;
  std::vector<std::vector<Outputs::Ask>> asks;
  std::vector<std::vector<Outputs::Result>> results;
  std::vector<Abort> aborts;
  std::deque<Submission> submissions;  // stable addresses
  uint64_t frames = 0;
  Time now = 0;
  Handle next = 1;

  explicit Cluster(int size, Options with = {}, int arity = 2)
      : options(with),
        done(size),
        plans(size),
        stalls(size),
        asks(size),
        results(size),
        aborts(size) {
    options.heartbeats = false;
    std::vector<int> hosts;
    for (int rank = 0; rank < size; ++rank) hosts.push_back(rank);
    for (const Position& at : make_tree(hosts, arity))
      ranks.push_back(std::make_unique<Negotiator>(at, size, 1, options, 0));
  }

  struct Mail {
    Rank from, to;
    std::string bytes;
  };

  void feed(Rank first, const Inputs& inputs) {
    std::deque<Mail> mail;
    step(first, inputs, mail);
    while (!mail.empty()) {
      const Mail one = std::move(mail.front());
      mail.pop_front();
      ++frames;
      Inputs delivery;
      delivery.messages.push_back({one.from, one.bytes});
      step(one.to, delivery, mail);
    }
  }

  template <class Mailbox>
  void step(Rank rank, const Inputs& inputs, Mailbox& mail) {
    const auto at = static_cast<size_t>(rank);
    Outputs out;
    ranks[at]->step(now, inputs, out);
    done[at].insert(done[at].end(), out.completions.begin(), out.completions.end());
    plans[at].insert(plans[at].end(), out.plans.begin(), out.plans.end());
    stalls[at].insert(stalls[at].end(), out.stalls.begin(), out.stalls.end());
    results[at].insert(results[at].end(), out.results.begin(), out.results.end());
    asks[at].insert(asks[at].end(), out.asks.begin(), out.asks.end());
    if (out.aborted) aborts[at] = out.why;
    for (const auto& send : out.sends) mail.push_back({rank, send.to, send.bytes});
  }

  void submit(Rank rank, const std::string& name, const Signature& signature = shape({2, 3}),
              int16_t priority = 0, SetId set = 0) {
    submissions.push_back({next++, set, name, signature, priority, value_of(rank)});
    Inputs in;
    in.requests.push_back(&submissions.back());
    feed(rank, in);
  }
  // What is sent stays in `mail`.
  void submit_only(Rank rank, const std::string& name, const Signature& signature,
                   std::vector<Mail>& mail) {
    submissions.push_back({next++, 0, name, signature, 0, value_of(rank)});
    Inputs in;
    in.requests.push_back(&submissions.back());
    step(rank, in, mail);
  }
  // What no negotiator would say.
  void say(Rank from, Rank to, Up up) {
    std::string frame;
    encode_up(up, 1, SIZE_MAX, [&]() -> std::string& { return frame; });
    Inputs in;
    in.messages.push_back({from, frame});
    feed(to, in);
  }
  void join(Rank rank, SetId set = 0) {
    Inputs in;
    in.joins.push_back({set, next++});
    feed(rank, in);
  }
  void finish(Rank rank) {
    Inputs in;
    for (const Plan& plan : plans[static_cast<size_t>(rank)]) in.finished.push_back(plan.seq);
    feed(rank, in);
  }
  // What a rank contributes to a carried operation of one float.
  static std::string value_of(Rank rank) { return std::string(4, static_cast<char>('a' + rank)); }
  const Status& status(Rank rank, size_t which = 0) {
    return done[static_cast<size_t>(rank)].at(which).status;
  }
};

Options tiny_buckets() {
  Options options;
  options.bucket_bytes = options.window_bytes = 64, options.express_bytes = 0;
  return options;
}

TEST(Negotiator, AMismatchHasTheSameTextOnAllRanksAndTheNameWorksAgain) {
  Cluster cluster(4);
  for (Rank rank = 0; rank < 4; ++rank) cluster.submit(rank, "grad.w", shape({rank == 3 ? 9 : 2}));
  for (Rank rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(cluster.status(rank).code(), Code::kMismatch);
    EXPECT_EQ(cluster.status(rank).message(),
              "'grad.w': ranks disagree: rank 0 and 2 more have shape [2]; rank 3 has shape [9]");
  }
  for (Rank rank = 0; rank < 4; ++rank) cluster.submit(rank, "grad.w");
  for (size_t rank = 0; rank < 4; ++rank) EXPECT_EQ(cluster.plans[rank].size(), 1u);
}

TEST(Negotiator, AMismatchListsOnlyWhatDiffers) {
  Cluster cluster(2);
  Signature mine = shape({2, 3}), other = mine;
  other.dtype = DType::kBFloat16, other.reduce = ReduceOp::kMax, other.chain = "onebit";
  other.prescale = 0.5;
  cluster.submit(0, "x", mine);
  cluster.submit(1, "x", other);
  EXPECT_EQ(cluster.status(0).message(),
            "'x': ranks disagree: rank 0 has reduction sum, dtype float32, prescale 1, compression "
            "'none'; "
            "rank 1 has reduction max, dtype bfloat16, prescale 0.5, compression 'onebit'");
}

TEST(Negotiator, AMismatchWithACachedNameNamesTheRanksThatUsedTheCache) {
  Cluster cluster(3);
  for (Rank rank = 0; rank < 3; ++rank) cluster.submit(rank, "x", shape({2}));
  for (Rank rank = 0; rank < 3; ++rank) cluster.submit(rank, "x", shape({rank == 1 ? 5 : 2}));
  EXPECT_EQ(cluster.status(2).message(),
            "'x': ranks disagree: rank 1 has shape [5]; rank 0 and 1 more have shape [2]");
}

TEST(Negotiator, AGroupIsOneItemAndFailsAsOne) {
  Cluster cluster(2);
  Signature group = shape({2});
  group.shapes.push_back({5});
  cluster.submit(0, "group", group);
  group.shapes[1][0] = 6;
  cluster.submit(1, "group", group);
  EXPECT_EQ(cluster.status(0).message(),
            "'group': ranks disagree: rank 0 has tensor 1 of shape [5]; rank 1 has tensor 1 of "
            "shape [6]");
  EXPECT_TRUE(cluster.plans[0].empty());
}

TEST(Negotiator, AGroupLargerThanABucketIsSplitThroughAllItsTensors) {
  Cluster cluster(1, tiny_buckets());
  Signature group = shape({10});
  group.shapes.push_back({20});
  cluster.submit(0, "group", group);
  cluster.finish(0);
  ASSERT_EQ(cluster.plans[0].size(), 2u);
  EXPECT_EQ(cluster.plans[0][0].slices[0].count, 16u);
  EXPECT_EQ(cluster.plans[0][1].slices[0].first, 16u);
  EXPECT_EQ(cluster.plans[0][1].slices[0].count, 14u);
  EXPECT_TRUE(cluster.plans[0][1].slices[0].last);
  EXPECT_EQ(cluster.plans[0][0].slices[0].handle, cluster.plans[0][1].slices[0].handle);
}

TEST(Negotiator, AChainIsSplitAtItsGranuleOnly) {
  Cluster cluster(1, tiny_buckets());
  Signature chain = shape({50});
  chain.chain = "onebit", chain.granule = 12;
  cluster.submit(0, "x", chain);
  for (int i = 0; i < 10; ++i) cluster.finish(0);
  ASSERT_EQ(cluster.plans[0].size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(cluster.plans[0][i].slices[0].first, 12 * i);
  chain.granule = 0;
  cluster.submit(0, "whole", chain);
  EXPECT_EQ(cluster.plans[0].back().slices[0].count, 50u);
}

TEST(Negotiator, AHighPriorityTensorGoesBetweenThePiecesOfALargeOne) {
  Cluster cluster(1, tiny_buckets());
  cluster.submit(0, "large", shape({64}));
  cluster.submit(0, "urgent", shape({4}), 5);
  for (int i = 0; i < 10; ++i) cluster.finish(0);
  ASSERT_EQ(cluster.plans[0].size(), 5u);
  EXPECT_EQ(cluster.plans[0][1].slices[0].handle, 2u);
}

TEST(Negotiator, ACachedOperationCostsOneFrameUpAndOneDownEachEdge) {
  Cluster cluster(9);
  for (int round = 0; round < 2; ++round) {
    cluster.frames = 0;
    for (Rank rank = 0; rank < 9; ++rank) cluster.submit(rank, "x");
    EXPECT_EQ(cluster.frames, 16u);
  }
}

TEST(Negotiator, IdleRanksSendNothing) {
  Cluster cluster(4);
  for (int i = 0; i < 100; ++i) cluster.now += 1'000'000'000, cluster.feed(i % 4, {});
  EXPECT_EQ(cluster.frames, 0u);
}

TEST(Negotiator, AStallNamesExactlyTheLateRanksWithWhatTheySayTheyDo) {
  Cluster cluster(9);
  for (Rank rank = 0; rank < 9; ++rank)
    if (rank != 4 && rank != 7) cluster.submit(rank, "x");
  cluster.now += cluster.options.stall_after;
  cluster.feed(8, {});  // a leaf's timer
  EXPECT_TRUE(cluster.stalls[8].empty());
  for (const Rank late : {4, 7}) {
    const auto at = static_cast<size_t>(late);
    ASSERT_EQ(cluster.asks[at].size(), 1u);
    EXPECT_EQ(cluster.asks[at][0].name, "x");
    Inputs in;
    in.answers.push_back({cluster.asks[at][0].query, "at line " + std::to_string(late)});
    cluster.feed(late, in);
  }
  for (const size_t rank : {0, 1, 8}) {
    ASSERT_EQ(cluster.stalls[rank].size(), 1u);
    const auto& stall = cluster.stalls[rank][0];
    EXPECT_EQ(stall.missing, 2u);
    EXPECT_EQ(stall.ranks, (std::vector<Rank>{4, 7}));
    EXPECT_EQ(stall.details, (std::vector<Detail>{{4, "at line 4"}, {7, "at line 7"}}));
    EXPECT_EQ(stall.waiting, cluster.options.stall_after);
  }
  EXPECT_TRUE(cluster.stalls[4].empty());
  EXPECT_TRUE(cluster.asks[0].empty());
}

TEST(Negotiator, AStallReportGoesOutWithoutTheTextOfARankThatAnswersTooLate) {
  Cluster cluster(3);
  cluster.submit(0, "x");
  cluster.submit(1, "x");
  cluster.now += cluster.options.stall_after;
  cluster.feed(0, {});
  ASSERT_EQ(cluster.asks[2].size(), 1u);
  cluster.now += cluster.options.failure_timeout / 10;
  cluster.feed(2, {});
  ASSERT_EQ(cluster.stalls[1].size(), 1u);
  EXPECT_EQ(cluster.stalls[1][0].ranks, (std::vector<Rank>{2}));
  EXPECT_TRUE(cluster.stalls[1][0].details.empty());
  Inputs late;
  late.answers.push_back({cluster.asks[2][0].query, "too late"});
  cluster.feed(2, late);
  EXPECT_EQ(cluster.stalls[1].size(), 1u);
}

TEST(Negotiator, StallAbortEndsTheEpochAndNamesTheLateRanks) {
  Options options;
  options.stall_abort = 2 * options.stall_after;
  Cluster cluster(3, options);
  cluster.submit(0, "x");
  cluster.submit(1, "x");
  cluster.now += options.stall_after;
  cluster.feed(0, {});
  cluster.now += options.failure_timeout / 10;
  cluster.feed(2, {});
  cluster.now = options.stall_abort;
  cluster.feed(0, {});
  EXPECT_EQ(cluster.status(1).code(), Code::kPeerLost);
  EXPECT_EQ(cluster.status(1).message(), "lost rank 2: stall_abort: 'x' waits for ranks 2");
  EXPECT_EQ(cluster.aborts[2].culprit, 2);
}

TEST(Negotiator, AFrameOfAnotherEpochIsIgnored) {
  Cluster cluster(2);
  cluster.submit(0, "x");
  Up up;
  up.declares.push_back({0, "x", false, 0, {{1, 1, shape({2, 3})}}});
  std::string frame;
  Inputs in;
  encode_up(up, 2, 1 << 20, [&]() -> std::string& { return frame; });
  in.messages.push_back({1, frame});
  cluster.feed(0, in);
  EXPECT_TRUE(cluster.plans[0].empty());
  EXPECT_EQ(cluster.aborts[0].cause, "");
  encode_up(up, 1, 1 << 20, [&]() -> std::string& { return frame; });
  in.messages[0].bytes = frame;
  cluster.feed(0, in);
  EXPECT_EQ(cluster.plans[0].size(), 1u);
}

TEST(Negotiator, AFrameOfAnotherEpochIsNoSignOfLife) {
  const Options options;
  Negotiator rank(make_tree({0, 1}, 2)[0], 2, 1, options, 0);
  std::string frame;
  begin_frame(frame, FrameType::kPing, 2);
  end_frame(frame);
  Outputs out;
  Inputs in;
  in.messages.push_back({1, frame});
  // A tenth more: rank 1 has never spoken at all.
  const Time almost = options.failure_timeout / 4, limit = options.failure_timeout * 11 / 10;
  for (Time now = 0; now < limit; now += almost) {
    rank.step(now, in, out);
    ASSERT_FALSE(out.aborted);
  }
  rank.step(limit, in, out);
  ASSERT_TRUE(out.aborted);
  EXPECT_EQ(out.why.culprit, 1);
  EXPECT_EQ(out.why.cause, "silent for the failure timeout (noticed by rank 0)");
}

// Zeros in its place would be a wrong sum that nobody sees.
TEST(Negotiator, ARunOfWhatThisRankDidNotSubmitEndsTheEpoch) {
  Cluster cluster(2);
  Entry define, run;
  define.reset(Entry::Kind::kDefine), run.reset(Entry::Kind::kRun);
  define.seq = 1, define.id = 1, define.name = "x", define.signature = shape({2});
  run.seq = 2, run.lane = 1, run.slices = {{1, 0, 2, 0, true}};
  std::string frame;
  begin_frame(frame, FrameType::kLog, 1);
  append_entry(frame, define), append_entry(frame, run);
  end_frame(frame);
  Inputs in;
  in.messages.push_back({0, frame});
  cluster.feed(1, in);
  EXPECT_EQ(cluster.aborts[1].culprit, 0);
  EXPECT_EQ(cluster.aborts[1].cause, "protocol: a run of 'x', which this rank did not submit");
  EXPECT_TRUE(cluster.plans[1].empty());
}

TEST(Negotiator, ABrokenRuleEndsTheEpochAndNamesWhoBrokeIt) {
  const auto told = [](const Up& first, const Up& second) {
    Cluster cluster(3, {}, 8);
    for (const Up& each : {first, second}) {
      Up up = each;
      std::string frame;
      encode_up(up, 1, 1 << 20, [&]() -> std::string& { return frame; });
      Inputs in;
      in.messages.push_back({2, frame});
      cluster.feed(0, in);
    }
    EXPECT_EQ(cluster.aborts[1].culprit, 2);
    return cluster.aborts[1].cause;
  };
  Up declared, foreign, unknown, quiet;
  declared.declares.push_back({0, "x", false, 0, {{2, 1, shape({2})}}});
  foreign.leaving = {1};
  unknown.full = {77};
  quiet.quiet.push_back({0, 2});
  EXPECT_EQ(told(declared, declared), "protocol: announced an operation twice");
  EXPECT_EQ(told(quiet, declared), "protocol: announced an operation after it had joined");
  EXPECT_EQ(told(quiet, quiet), "protocol: joined twice");
  EXPECT_EQ(told(unknown, {}), "protocol: announced an operation that nobody defined");
  EXPECT_EQ(told(foreign, {}), "protocol: an announcement that names ranks it must not");
}

TEST(Negotiator, ACacheThatIsFullStartsAnewAndForgetsNoRequest) {
  Options options;
  options.cache_capacity = 4;
  Cluster cluster(2, options);
  cluster.submit(0, "only rank 0 has it");
  for (int i = 0; i < 50; ++i)
    for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "x" + std::to_string(i));
  EXPECT_EQ(cluster.plans[0].size(), 50u);
  EXPECT_LE(cluster.ranks[0]->cache().names(), 5u);
  cluster.submit(1, "only rank 0 has it");
  EXPECT_EQ(cluster.plans[0].size(), 51u);
  EXPECT_EQ(cluster.plans[1].size(), 51u);
}

TEST(Negotiator, ANameWhoseShapeChangesForeverDoesNotGrowTheCache) {
  Options options;
  options.cache_capacity = 8;
  Cluster cluster(2, options);
  for (int i = 0; i < 500; ++i)
    for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "x", shape({i}));
  EXPECT_EQ(cluster.plans[1].size(), 500u);
  EXPECT_LE(cluster.ranks[1]->cache().span(), 40u);
}

TEST(Negotiator, ARankThatJoinedContributesZerosWhereTheyAreNeutral) {
  Cluster cluster(2);
  cluster.join(1);
  cluster.submit(0, "sum");
  ASSERT_EQ(cluster.plans[1].size(), 1u);
  EXPECT_EQ(cluster.plans[1][0].slices[0].handle, 0u);
  EXPECT_EQ(cluster.ranks[1]->cache().find(cluster.plans[1][0].slices[0].id)->name, "sum");
  Signature largest = shape({2});
  largest.reduce = ReduceOp::kMax;
  cluster.submit(0, "max", largest);
  EXPECT_EQ(cluster.status(0).code(), Code::kJoined);
  EXPECT_NE(cluster.status(0).message().find("allreduce of max"), std::string::npos);
  cluster.join(0);
  EXPECT_TRUE(cluster.status(1).ok());
  EXPECT_EQ(cluster.done[1][0].value, 0);
}

TEST(Negotiator, WhoNeedsARankThatLeftIsToldWhich) {
  Cluster cluster(3);
  Inputs leave;
  leave.leave = true;
  cluster.feed(1, leave);
  cluster.submit(0, "x");
  cluster.submit(2, "x");
  EXPECT_EQ(cluster.status(2), Status(Code::kPeerLeft, "'x': rank 1 has shut down"));
  cluster.submit(1, "y");
  EXPECT_EQ(cluster.status(1).code(), Code::kShutdown);
}

TEST(Negotiator, ARemovedSetFailsItsRequestsAndItsMembersStayKnownForThisStep) {
  Cluster cluster(2);
  Signature add;
  add.op = Op::kAddSet, add.shapes = {{0, 1}};
  for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "add", add);
  EXPECT_EQ(cluster.done[0][0].value, 1);
  cluster.submit(0, "orphan", shape({2}), 0, 1);
  Signature remove;
  remove.op = Op::kRemoveSet, remove.root = 1;
  for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "remove", remove);
  EXPECT_EQ(cluster.status(0, 1).code(), Code::kSetRemoved);
  EXPECT_NE(cluster.ranks[0]->members(1), nullptr);
  cluster.feed(0, {});
  EXPECT_EQ(cluster.ranks[0]->members(1), nullptr);
  cluster.submit(0, "late", shape({2}), 0, 1);
  EXPECT_EQ(cluster.done[0].back().status.code(), Code::kInvalidArgument);
}

TEST(Negotiator, GradientsLingerForTheirBucketAndAWaitPushesThem) {
  Cluster cluster(2);
  Signature gradient = shape({2});
  gradient.domain = 1;
  const auto step = [&] {
    for (Rank rank = 0; rank < 2; ++rank)
      for (const char* name : {"a", "b", "c"}) cluster.submit(rank, name, gradient);
  };
  Inputs flush;
  flush.flushes.push_back(1);
  step(), step();  // the second turn shows where a step ends
  for (Rank rank = 0; rank < 2; ++rank) cluster.feed(rank, flush);
  cluster.finish(0);
  const size_t before = cluster.plans[0].size();
  step();
  ASSERT_EQ(cluster.plans[0].size(), before + 1);
  EXPECT_EQ(cluster.plans[0].back().slices.size(), 3u);
  cluster.finish(0);
  cluster.submit(0, "a", gradient);
  Inputs wait;
  wait.waits.push_back(&cluster.submissions.back());
  cluster.submit(1, "a", gradient);
  EXPECT_EQ(cluster.plans[0].size(), before + 1);
  cluster.feed(0, wait);
  cluster.feed(1, flush);
  ASSERT_EQ(cluster.plans[1].size(), before + 2);
  EXPECT_EQ(cluster.plans[1].back().slices.size(), 1u);
}

TEST(Negotiator, ALostNeighborEndsTheEpochEverywhere) {
  Cluster cluster(4);
  cluster.submit(0, "x");
  Inputs in;
  in.lost.push_back({3, "connection closed"});
  cluster.feed(1, in);
  EXPECT_EQ(cluster.status(0),
            Status(Code::kPeerLost, "lost rank 3: connection closed (noticed by rank 1)"));
  cluster.submit(2, "y");
  EXPECT_EQ(cluster.status(2), cluster.status(0));
}

TEST(Negotiator, ACallersMistakeIsRefusedAtOnce) {
  Cluster cluster(2);
  cluster.submit(0, "x");
  cluster.submit(0, "x");
  EXPECT_EQ(cluster.status(0), Status(Code::kInvalidArgument, "'x': still in flight"));
  Signature add;
  add.op = Op::kAddSet, add.shapes = {{1, 0}};
  cluster.submit(0, "add", add);
  EXPECT_EQ(cluster.status(0, 1).code(), Code::kInvalidArgument);
  cluster.submit(1, "y", shape({2}), 0, 5);
  EXPECT_EQ(cluster.status(1).message(), "'y': this rank is not a member of process set 5");
  EXPECT_EQ(cluster.aborts[0].cause, "");
}

Options carrying() {
  Options options;
  options.carry_bytes = 64;
  return options;
}

TEST(Negotiator, ACarriedOperationNeedsNoPlanAndEveryRankGetsAllValues) {
  Cluster cluster(3, carrying());
  for (int round = 0; round < 3; ++round) {
    for (Rank rank = 0; rank < 3; ++rank) cluster.submit(rank, "loss", shape({1}));
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_TRUE(cluster.plans[rank].empty());
      ASSERT_EQ(cluster.results[rank].size(), static_cast<size_t>(round + 1));
      std::map<Rank, std::string> values;
      for_each_value(cluster.results[rank].back().values,
                     [&](Rank from, std::string_view each) { values[from] = each; });
      const std::map<Rank, std::string> expected{{0, "aaaa"}, {1, "bbbb"}, {2, "cccc"}};
      EXPECT_EQ(values, expected);
    }
  }
}

TEST(Negotiator, WhatNeedsMoreForAllRanksThanMayBeCarriedGetsAPlan) {
  Cluster cluster(3, carrying());
  for (Rank rank = 0; rank < 3; ++rank) cluster.submit(rank, "loss", shape({6}));
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(cluster.plans[rank].size(), 1u);
    EXPECT_TRUE(cluster.results[rank].empty());
  }
}

// The worker's announcement is on its way while it hears what the root contributes.
TEST(Negotiator, TwoHostsAreDoneAfterOneTripEach) {
  Cluster cluster(2, carrying());
  for (int round = 0; round < 2; ++round)
    for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "loss", shape({1}));
  const size_t before = cluster.results[1].size();
  cluster.submit(0, "loss", shape({1}));
  std::vector<Cluster::Mail> mail;
  cluster.submit_only(1, "loss", shape({1}), mail);
  ASSERT_EQ(cluster.results[1].size(), before + 1);
  EXPECT_EQ(cluster.results[1].back().seq, 0u);  // the log does not know yet
  ASSERT_EQ(mail.size(), 1u);
  EXPECT_EQ(mail[0].to, 0);
  EXPECT_EQ(cluster.results[0].size(), before);
}

TEST(Negotiator, AnAnnouncementWithoutTheValuesThatItCarriesEndsTheEpoch) {
  Cluster cluster(2, carrying());
  for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "loss", shape({1}));
  Up up;
  up.full = {1};
  cluster.say(1, 0, up);
  EXPECT_EQ(cluster.aborts[0].culprit, 1);
  EXPECT_NE(cluster.aborts[0].cause.find("without the values"), std::string::npos);
}

TEST(Negotiator, ValuesOfTheWrongLengthEndTheEpoch) {
  Cluster cluster(2, carrying());
  for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "loss", shape({1}));
  Up up;
  Carried& carried = up.carried.next();
  carried.id = 1;
  append_values(carried.values, 1, "bbbbb");
  cluster.say(1, 0, up);
  EXPECT_EQ(cluster.aborts[0].culprit, 1);
}

TEST(Negotiator, ARankThatJoinedIsMissingAmongTheValues) {
  Cluster cluster(2, carrying());
  for (Rank rank = 0; rank < 2; ++rank) cluster.submit(rank, "loss", shape({1}));
  cluster.join(1);
  cluster.submit(0, "loss", shape({1}));
  std::string expected;
  append_values(expected, 0, "aaaa");
  EXPECT_EQ(cluster.results[0].back().values, expected);
}

}  // namespace
}  // namespace hora
