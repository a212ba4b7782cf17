// Goal: every backend does what ops/backend.h promises.
// Method: each test runs on all ranks of a job, once for every registered backend
// (conformance_cases.cc and the backends' own test files). Every rank can make every rank's input
// from a seed, so it knows the result by definition and compares bits; only a backend with an order
// of its own is given a tolerance, and must still give all ranks the same bits.

#include <algorithm>
#include <chrono>
#include <deque>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/backend_fixture.h"
#include "tests/support/data.h"

namespace hora {
namespace {

using support::Bytes;
using support::Party;
using support::Pieces;
using support::Random;
using support::Values;

constexpr DType kAllDTypes[] = {DType::kUInt8,   DType::kInt8,    DType::kInt16,    DType::kInt32,
                                DType::kInt64,   DType::kFloat16, DType::kBFloat16, DType::kFloat32,
                                DType::kFloat64, DType::kBool};
constexpr ReduceOp kAllOps[] = {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin, ReduceOp::kMax,
                                ReduceOp::kProduct};

std::string describe(const Reduction& reduction, size_t count) {
  return std::string(name_of(reduction.op)) + " of " + std::to_string(count) + " " +
         std::string(name_of(reduction.dtype));
}

/// Content of part `from` -> `to`, by seed: bytes that tell where they come from.
Bytes make_part(size_t bytes, uint64_t seed, size_t from, size_t to = 0) {
  return support::make_values(DType::kUInt8, Values::kWild, bytes, seed * 10007 + from * 101 + to);
}

Bytes make_input(const Party& party, const Reduction& reduction, size_t count, uint64_t seed,
                 size_t member) {
  const Values values = party.of().own_order ? Values::kSmall : Values::kPlain;
  return support::make_values(reduction.dtype, values, count, seed * 64 + member);
}

Bytes reduced(const Party& party, const Reduction& reduction, size_t count, uint64_t seed,
              size_t members) {
  std::vector<Bytes> inputs;
  for (size_t r = 0; r < members; ++r) {
    inputs.push_back(make_input(party, reduction, count, seed, r));
  }
  return support::reduce_by_definition(reduction, inputs);
}

/// All ranks have the same bits as rank 0?
std::string same_everywhere(Party& party, Bytes mine) {
  Bytes root = mine;
  const Segment segment{root.data(), root.size()};
  HORA_WANT_OK(party.run(party.world().broadcast(party.lane(), party.tag(), {&segment, 1}, 0)));
  HORA_WANT(root == mine, "ranks hold different bits");
  return "";
}

std::string check_result(Party& party, const Reduction& reduction, Bytes got, const Bytes& wanted) {
  if (!party.of().own_order) return support::difference(reduction.dtype, got, wanted);
  const double tolerance = reduction.dtype == DType::kBFloat16  ? 1.0 / 64
                           : reduction.dtype == DType::kFloat16 ? 1.0 / 512
                                                                : 1e-5;
  HORA_WANT_NOTHING(support::distance(reduction.dtype, got, wanted, tolerance));
  return same_everywhere(party, std::move(got));
}

/// One allreduce over the world, cut at random on each rank.
std::string allreduce(Party& party, const Reduction& reduction, size_t count, uint64_t seed) {
  const auto me = static_cast<size_t>(party.rank());
  Random random(seed * 31 + me);
  Pieces pieces(make_input(party, reduction, count, seed, me), bytes_of(reduction.dtype),
                random.below(7), random);
  HORA_WANT_OK(
      party.run(party.world().allreduce(party.lane(), party.tag(), pieces.segments(), reduction)));
  const Bytes wanted = reduced(party, reduction, count, seed, party.members());
  const std::string wrong = check_result(party, reduction, pieces.content(), wanted);
  HORA_WANT(wrong.empty(), describe(reduction, count) + ": " + wrong);
  HORA_WANT(pieces.guards_intact(), describe(reduction, count) + ": wrote outside of a segment");
  return "";
}

class Conformance : public support::OnBackend {};

TEST_P(Conformance, ReducesEveryTypeByEveryOperation) {
  check(3, [](Party& party) -> std::string {
    uint64_t seed = 0;
    for (const DType dtype : kAllDTypes) {
      for (const ReduceOp op : kAllOps) {
        if (op == ReduceOp::kAverage && dtype == DType::kBool) continue;
        HORA_WANT_NOTHING(allreduce(party, {dtype, op}, 4096 + 3, ++seed));
      }
    }
    return "";
  });
}

TEST_P(Conformance, ReducesEverySizeOnOneToFiveAndEightRanks) {
  for (const int size : {1, 2, 3, 4, 5, 8}) {
    check(size, [](Party& party) -> std::string {
      uint64_t seed = 100;
      for (const size_t count : {0, 1, 7, 4096 + 3}) {
        HORA_WANT_NOTHING(allreduce(party, {DType::kFloat32, ReduceOp::kSum}, count, ++seed));
        HORA_WANT_NOTHING(allreduce(party, {DType::kBFloat16, ReduceOp::kAverage}, count, ++seed));
      }
      if (party.size() > 5) return "";
      return allreduce(party, {DType::kFloat32, ReduceOp::kAverage}, 300001, ++seed);
    });
  }
}

TEST_P(Conformance, AppliesEachScaleOnce) {
  for (const int size : {1, 2, 4}) {
    check(size, [](Party& party) -> std::string {
      uint64_t seed = 200;
      for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kFloat64, DType::kInt32}) {
        for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMax}) {
          HORA_WANT_NOTHING(allreduce(party, {dtype, op, 0.5, 1}, 1001, ++seed));
          HORA_WANT_NOTHING(allreduce(party, {dtype, op, 1, 3}, 1001, ++seed));
          HORA_WANT_NOTHING(allreduce(party, {dtype, op, 4, 0.25}, 1001, ++seed));
        }
      }
      return "";
    });
  }
}

TEST_P(Conformance, ReduceScattersUnevenPartsAndEmptyOnes) {
  for (const int size : {1, 2, 3, 5}) {
    check(size, [](Party& party) -> std::string {
      const auto me = static_cast<size_t>(party.rank());
      for (uint64_t seed = 300; seed < 312; ++seed) {
        Random random(seed);
        std::vector<size_t> counts(party.members());
        for (size_t& count : counts) count = random.below(3) == 0 ? 0 : random.below(3000);
        const size_t total = std::accumulate(counts.begin(), counts.end(), size_t{0});
        const size_t before =
            std::accumulate(counts.begin(), counts.begin() + party.rank(), size_t{0});
        const Reduction reduction{seed % 2 ? DType::kFloat32 : DType::kInt16, ReduceOp::kSum};
        const size_t width = bytes_of(reduction.dtype);
        Bytes input = make_input(party, reduction, total, seed, me);
        const Bytes kept = input;
        Bytes output(counts[me] * width);
        HORA_WANT_OK(party.run(party.world().reduce_scatter(party.lane(), party.tag(), input.data(),
                                                            output.data(), counts, reduction)));
        const Bytes all = reduced(party, reduction, total, seed, party.members());
        const auto mine = std::span(all).subspan(before * width, counts[me] * width);
        HORA_WANT_NOTHING(
            support::distance(reduction.dtype, output, mine, party.of().own_order ? 1e-5 : 0));
        HORA_WANT(input == kept, "the input was written to");
      }
      return "";
    });
  }
}

TEST_P(Conformance, AllgathersUnevenPartsAlsoInPlace) {
  for (const int size : {1, 2, 3, 5}) {
    check(size, [](Party& party) -> std::string {
      const auto me = static_cast<size_t>(party.rank());
      for (uint64_t seed = 400; seed < 424; ++seed) {
        Random random(seed);
        std::vector<size_t> bytes(party.members());
        for (size_t& part : bytes) part = random.below(3) == 0 ? 0 : random.below(20000);
        Bytes wanted;
        for (size_t r = 0; r < bytes.size(); ++r) {
          const Bytes part = make_part(bytes[r], seed, r);
          wanted.insert(wanted.end(), part.begin(), part.end());
        }
        const size_t before =
            std::accumulate(bytes.begin(), bytes.begin() + party.rank(), size_t{0});
        const Bytes mine = make_part(bytes[me], seed, me);
        Bytes output(wanted.size());
        const std::byte* input = mine.data();
        if (seed % 2 == 1) {
          std::copy(mine.begin(), mine.end(), output.begin() + static_cast<ptrdiff_t>(before));
          input = output.data() + before;
        }
        HORA_WANT_OK(party.run(
            party.world().allgather(party.lane(), party.tag(), input, output.data(), bytes)));
        HORA_WANT(output == wanted, "seed " + std::to_string(seed));
      }
      return "";
    });
  }
}

TEST_P(Conformance, SendsEveryPartOfAnAlltoallWhereItBelongs) {
  for (const int size : {1, 2, 3, 5}) {
    check(size, [](Party& party) -> std::string {
      const auto me = static_cast<size_t>(party.rank());
      const size_t n = party.members();
      for (uint64_t seed = 500; seed < 512; ++seed) {
        Random random(seed);
        std::vector<size_t> table(n * n);
        for (size_t& bytes : table) bytes = random.below(3) == 0 ? 0 : random.below(9000);
        std::vector<size_t> send, receive;
        Bytes input, wanted;
        for (size_t r = 0; r < n; ++r) {
          send.push_back(table[me * n + r]);
          receive.push_back(table[r * n + me]);
          const Bytes out = make_part(send[r], seed, me, r);
          const Bytes in = make_part(receive[r], seed, r, me);
          input.insert(input.end(), out.begin(), out.end());
          wanted.insert(wanted.end(), in.begin(), in.end());
        }
        Bytes output(wanted.size());
        HORA_WANT_OK(party.run(party.world().alltoall(party.lane(), party.tag(), input.data(), send,
                                                      output.data(), receive)));
        HORA_WANT(output == wanted, "seed " + std::to_string(seed));
      }
      return "";
    });
  }
}

TEST_P(Conformance, BroadcastsFromEachRoot) {
  for (const int size : {1, 2, 3, 5}) {
    check(size, [](Party& party) -> std::string {
      uint64_t seed = 600;
      for (int root = 0; root < party.size(); ++root) {
        for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4099}, size_t{1200004}}) {
          ++seed;
          const Bytes content = make_part(bytes, seed, static_cast<size_t>(party.rank()));
          Random random(seed * 7 + static_cast<uint64_t>(party.rank()));
          Pieces pieces(content, 1, random.below(6), random);
          HORA_WANT_OK(party.run(
              party.world().broadcast(party.lane(), party.tag(), pieces.segments(), root)));
          HORA_WANT(pieces.content() == make_part(bytes, seed, static_cast<size_t>(root)),
                    std::to_string(bytes) + " bytes from " + std::to_string(root));
          HORA_WANT(pieces.guards_intact(), "wrote outside of a segment");
        }
      }
      return "";
    });
  }
}

TEST_P(Conformance, LetsNobodyThroughABarrierBeforeAllHaveCome) {
  for (const int size : {1, 2, 4}) {
    support::SharedWords come(1);
    check(size, [&](Party& party) -> std::string {
      for (uint64_t round = 1; round <= 200; ++round) {
        come[0].fetch_add(1);
        HORA_WANT_OK(party.run(party.world().barrier(party.lane(), party.tag())));
        HORA_WANT(come[0].load() >= round * party.members(), "round " + std::to_string(round));
      }
      return "";
    });
  }
}

TEST_P(Conformance, RunsTenThousandSmallOperationsInARow) {
  check(3, [](Party& party) -> std::string {
    const int rounds = 10000 / party.of().slowness;
    Random sizes(700);
    const Reduction reduction{DType::kInt32, ReduceOp::kSum};
    std::vector<int32_t> values;
    for (int round = 0; round < rounds; ++round) {
      const auto mine = static_cast<int32_t>(round * 8 + party.rank());
      values.assign(sizes.below(40) == 0 ? 3000 : sizes.below(33), mine);
      const Segment segment{reinterpret_cast<std::byte*>(values.data()), values.size()};
      HORA_WANT_OK(
          party.run(party.world().allreduce(party.lane(), party.tag(), {&segment, 1}, reduction)));
      const bool right = std::all_of(values.begin(), values.end(), [&](int32_t value) {
        return value == 3 * round * 8 + 0 + 1 + 2;
      });
      HORA_WANT(right, "round " + std::to_string(round));
    }
    return "";
  });
}

// Sets and lanes.

/// A lane of one rank with its part of a common list of operations on several sets.
struct Track {
  explicit Track(int index) : lane(index) {}
  struct Step {
    Communicator* communicator;
    uint64_t tag;
    std::vector<int64_t> values;
    Segment segment;
    int64_t wanted;
  };
  Lane lane;
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::deque<Step> steps;
  size_t next = 0;

  void start_next() {
    Step& step = steps[next++];
    lane.start(step.communicator->allreduce(lane, step.tag, {&step.segment, 1},
                                            {DType::kInt64, ReduceOp::kSum}));
  }
};

const std::vector<std::vector<Rank>> kSets = {{0, 1, 2, 3}, {0, 1}, {1, 2},
                                              {2, 3},       {0, 3}, {0, 2, 3}};

/// The same list on all ranks; each takes the steps of its own sets.
std::string plan_track(Party& party, Track& track, uint64_t seed, int steps) {
  std::vector<Communicator*> of_set(kSets.size());
  for (size_t s = 0; s < kSets.size(); ++s) {
    if (std::find(kSets[s].begin(), kSets[s].end(), party.rank()) == kSets[s].end()) continue;
    auto made =
        party.backend().communicator(static_cast<SetId>(s + 1), kSets[s], track.lane.index());
    HORA_WANT_OK(made.status());
    track.communicators.push_back(std::move(made).value());
    of_set[s] = track.communicators.back().get();
  }
  Random random(seed);
  for (int i = 0; i < steps; ++i) {
    const size_t s = random.below(kSets.size()), count = random.below(500);
    if (!of_set[s]) continue;
    int64_t wanted = 0;
    for (const Rank rank : kSets[s]) wanted += rank * 1000 + i;
    auto& step = track.steps.emplace_back();
    step = {of_set[s], Tag::of(static_cast<uint64_t>(i), 1), {}, {}, wanted};
    step.values.assign(count, party.rank() * 1000 + i);
    step.segment = {reinterpret_cast<std::byte*>(step.values.data()), count};
  }
  return "";
}

std::string check_track(Track& track) {
  for (const Track::Step& step : track.steps) {
    for (const int64_t value : step.values) {
      HORA_WANT(value == step.wanted,
                "lane " + std::to_string(track.lane.index()) + ", tag " + std::to_string(step.tag));
    }
  }
  return "";
}

TEST_P(Conformance, CannotDeadlockWithOverlappingSetsOnTwoLanes) {
  check(4, [](Party& party) -> std::string {
    Track first(1), second(2);
    const int steps = 600 / party.of().slowness;
    HORA_WANT_NOTHING(plan_track(party, first, 801, steps));
    HORA_WANT_NOTHING(plan_track(party, second, 802, steps));
    // Half of the ranks prefer one lane, half the other: the order in which two blocking calls
    // would wait for each other for ever.
    Track* tracks[] = {&first, &second};
    if (party.rank() % 2 == 1) std::swap(tracks[0], tracks[1]);
    Lane* const lanes[] = {&tracks[0]->lane, &tracks[1]->lane};
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (first.next < first.steps.size() || second.next < second.steps.size()) {
      for (Track* track : tracks) {
        if (track->lane.idle() && track->next < track->steps.size()) {
          HORA_WANT_OK(track->lane.outcome());
          track->start_next();
        }
      }
      const bool moved = lanes[0]->progress() | lanes[1]->progress();
      if (!moved) std::this_thread::yield();
      if (std::chrono::steady_clock::now() > end) {
        for (Lane* lane : lanes) lane->abort({Code::kTimeout, "stuck"});
        support::drive(lanes);
        return "stuck at steps " + std::to_string(first.next) + " and " +
               std::to_string(second.next);
      }
    }
    support::drive(lanes);
    HORA_WANT_OK(first.lane.outcome());
    HORA_WANT_OK(second.lane.outcome());
    HORA_WANT_NOTHING(check_track(first));
    return check_track(second);
  });
}

// Aborts.

const Status kLost(Code::kPeerLost, "test: rank 0 is gone");

void abort_now(Party& party) {
  party.lane().abort(kLost);
  party.world().abort();
}

TEST_P(Conformance, EndsEveryWaitOnAbortWhenOneRankNeverComes) {
  support::SharedWords waiting(1);
  check(4, [&](Party& party) -> std::string {
    HORA_WANT_OK(party.run(party.world().barrier(party.lane(), party.tag())));
    const uint64_t tag = party.tag();
    if (party.rank() == 0) {
      while (waiting[0].load() < party.members() - 1) std::this_thread::yield();
      return "";
    }
    // Freed as soon as the operation has ended: whoever touched it later is caught by a sanitizer.
    auto values = std::make_unique<std::vector<float>>(50000, 1.0f);
    const Segment segment{reinterpret_cast<std::byte*>(values->data()), values->size()};
    party.lane().start(party.world().allreduce(party.lane(), tag, {&segment, 1},
                                               {DType::kFloat32, ReduceOp::kSum}));
    for (int i = 0; i < 200; ++i) party.lane().progress();
    HORA_WANT(!party.lane().idle(), "ended without a member");
    waiting[0].fetch_add(1);
    // Who sees another's connection end would end, too.
    while (waiting[0].load() < party.members() - 1) std::this_thread::yield();
    abort_now(party);
    Lane* const lanes[] = {&party.lane()};
    support::drive(lanes);
    const Status outcome = party.lane().outcome();
    HORA_WANT(outcome == kLost, outcome.message());
    return "";
  });
}

TEST_P(Conformance, SurvivesAbortsAtAnyMoment) {
  for (uint64_t seed = 900; seed < 920; ++seed) {
    check(3, [seed](Party& party) -> std::string {
      Random random(seed * 8 + static_cast<uint64_t>(party.rank()));
      const size_t last = random.below(6), turns = random.below(40);
      for (size_t i = 0; i <= last; ++i) {
        auto values = std::make_unique<std::vector<float>>(2000, 1.0f);
        const Segment segment{reinterpret_cast<std::byte*>(values->data()), values->size()};
        party.lane().start(party.world().allreduce(party.lane(), party.tag(), {&segment, 1},
                                                   {DType::kFloat32, ReduceOp::kSum}));
        for (size_t turn = 0; turn < turns; ++turn) {
          if (!party.lane().progress()) std::this_thread::yield();
        }
        // A rank that meets one that is gone already is told so by its engine, soon.
        const auto patience = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
        while (i < last && !party.lane().idle() && std::chrono::steady_clock::now() < patience) {
          if (!party.lane().progress()) std::this_thread::yield();
        }
        const bool cut = !party.lane().idle();
        if (cut) abort_now(party);
        Lane* const lanes[] = {&party.lane()};
        support::drive(lanes);
        const Status outcome = party.lane().outcome();
        HORA_WANT(outcome.ok() || outcome.code() == kLost.code(), outcome.message());
        if (outcome.ok()) {
          HORA_WANT(std::all_of(values->begin(), values->end(), [](float v) { return v == 3; }),
                    "ended well with a wrong sum");
        }
        if (cut) break;
      }
      return "";
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Conformance, ::testing::ValuesIn(support::backend_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hora
