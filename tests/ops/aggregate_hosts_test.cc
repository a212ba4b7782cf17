// Goal: with link=inter all ranks hold the bits that the chain gives when hosts are its ranks and
// their sums its gradients; whatever fails, a host's memory has lost nothing.
// Method: the reference is aggregate() over as many ranks as there are hosts, given sums made here
// and tensors cut where shards end. Ranks are lanes of one thread over two local hubs, one inside
// hosts and one between them. Values are small numbers of eighths, so that sums are exact.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "compressors/around.h"
#include "compressors/convert.h"
#include "compressors/state_store.h"
#include "ops/aggregate.h"
#include "ops/hierarchical/hierarchical.h"
#include "ops/local/local.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/run_ranks.h"

namespace hora {
namespace {

using Hosts = std::vector<int>;  // of each rank

struct TensorSpec {
  uint64_t id;
  size_t rows, columns;
  size_t count() const { return rows * columns; }
};
const std::vector<TensorSpec> kTensors = {{1, 1, 5000}, {2, 40, 30}, {3, 1, 1},
                                          {7, 1, 0},    {9, 1, 513}, {12, 1, 70000}};

float element(uint64_t tensor, int rank, uint64_t step, size_t i) {
  const Key key = make_key(9, step, tensor, static_cast<uint64_t>(rank));
  return static_cast<float>(random_bits(key, static_cast<uint32_t>(i)) % 65) / 8 - 4;
}

struct Terms {
  DType dtype = DType::kFloat32;
  Combine combine = {};
  size_t split = 0;  // tensors travel in pieces of so many elements
};

/// What one rank of either job has.
struct OneRank {
  std::shared_ptr<support::Faults> faults = std::make_shared<support::Faults>();
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> communicator;
  Lane lane{0};
  std::vector<std::unique_ptr<Codec>> codecs;
  StateStore store;
  Sharing sharing;
  std::vector<TensorState*> states;
  std::vector<std::vector<std::byte>> memory;  // gradients, then results
  std::vector<Slot> slots;
  uint64_t sequence = 0;
};

/// Puts `values` where the rank's tensor is.
void give(OneRank& rank, size_t t, DType dtype, const std::vector<float>& values) {
  rank.memory[t].resize(values.size() * bytes_of(dtype));
  narrow(dtype, values.data(), rank.memory[t].data(), values.size());
}

std::vector<float> result_of(const OneRank& rank, size_t t, DType dtype) {
  std::vector<float> wide(rank.memory[t].size() / bytes_of(dtype));
  widen(dtype, rank.memory[t].data(), wide.data(), wide.size());
  return wide;
}

/// Makes codecs and, with `columns`, memories of shards.
void equip(OneRank& rank, const ChainConfig& config, Sharing sharing, int columns, int column) {
  for (const TensorSpec& t : kTensors) {
    rank.codecs.push_back(config.codec({t.id, t.rows, t.columns}).value());
    const Codec& codec = *rank.codecs.back();
    sharing.shard = shard_of(t.id, t.count(), codec.granule(), columns, column);
    rank.states.push_back(
        &rank.store.get(0, std::to_string(t.id), codec, config.canonical(), sharing));
  }
  rank.memory.resize(kTensors.size());
  rank.sharing = sharing;
}

void add_slot(OneRank& rank, size_t t, uint64_t first, size_t count, DType dtype, uint64_t step) {
  Slot& slot = rank.slots.emplace_back();
  slot.codec = rank.codecs[t].get();
  slot.input = slot.result = rank.memory[t].data() + first * bytes_of(dtype);
  slot.dtype = dtype;
  slot.first = first;
  slot.count = count;
  slot.mine = &rank.states[t]->mine;
  slot.owned = &rank.states[t]->owned;
  slot.step = {.seed = 42, .step = step, .rank = rank.sharing.rank, .size = rank.sharing.size};
  slot.tensor = "w";
}

std::span<float> residual_in(State& state) {
  for (State::Slab& slab : state.slabs)
    if (slab.spec.name == "residual") return slab.values;
  return {};
}

/// All that `ranks` owe for an element of a tensor: by themselves, and as owners.
std::pair<double, double> owed(const std::vector<std::unique_ptr<OneRank>>& ranks, size_t t,
                               size_t i) {
  double mine = 0, owned = 0;
  for (const auto& rank : ranks) {
    State& state = rank->states[t]->mine;
    const std::span<float> e = residual_in(state), second = residual_in(rank->states[t]->owned);
    if (i < state.first || i >= state.first + e.size()) continue;
    mine += e[i - state.first];
    const Codec& codec = *rank->codecs[t];
    const Stripes stripes(codec.extent().id, Shard{state.first, e.size()}, codec.granule(),
                          rank->sharing.size);
    if (rank->sharing.recodes && stripes.owner(i) == rank->sharing.rank)
      owned += second[stripes.slot(i)];
  }
  return {mine, owned};
}

class HostsJob {
 public:
  HostsJob(const std::string& text, const Hosts& hosts, const Terms& terms = {})
      : config_(ChainConfig::parse(text + ";link=inter").value()), hosts_(hosts), terms_(terms) {
    const auto size = static_cast<int>(hosts.size());
    auto inside = local::make_hub(size), across = local::make_hub(size);
    std::vector<Rank> all;
    for (Rank r = 0; r < size; ++r) all.push_back(r);
    for (Rank r = 0; r < size; ++r) {
      auto& rank = *ranks_.emplace_back(std::make_unique<OneRank>());
      const auto faulty = [&](const auto& hub) {
        return std::make_unique<support::FaultyBackend>(local::open(hub, r), rank.faults);
      };
      rank.backend = hierarchical::open(faulty(inside), faulty(across), hosts, r);
      rank.communicator = rank.backend->communicator(0, all, 0).value();
      layers_.push_back(rank.communicator->layers());
      const Layers& layers = layers_.back();
      const auto probe = config_.codec({1, 64, 64}).value();
      how_ = config_.aggregation(*probe, layers.hosts);
      equip(rank, config_,
            {how_ == Aggregation::kRecode, layers.host, layers.hosts,
             terms.combine.op == ReduceOp::kAverage},
            layers.columns, layers.column);
    }
  }

  template <class Value>
  std::vector<Status> step(uint64_t number, Value value) {
    std::vector<Lane*> lanes;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      OneRank& rank = *ranks_[r];
      rank.slots.clear();
      for (size_t t = 0; t < kTensors.size(); ++t) {
        std::vector<float> values(kTensors[t].count());
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = value(kTensors[t].id, static_cast<int>(r), number, i);
        give(rank, t, terms_.dtype, values);
        const size_t piece = terms_.split ? terms_.split : std::max<size_t>(1, values.size());
        for (size_t first = 0; first < std::max<size_t>(1, values.size()); first += piece)
          add_slot(rank, t, first, std::min(piece, values.size() - first), terms_.dtype, number);
      }
      rank.lane.start(aggregate_between_hosts(rank.lane, *rank.communicator, ++rank.sequence, how_,
                                              rank.slots, terms_.combine));
      lanes.push_back(&rank.lane);
    }
    return drive(lanes);
  }

  Aggregation how() const { return how_; }
  const Layers& layers(size_t r) const { return layers_[r]; }
  OneRank& rank(size_t r) { return *ranks_[r]; }
  const std::vector<std::unique_ptr<OneRank>>& ranks() const { return ranks_; }
  const ChainConfig& config() const { return config_; }
  std::vector<float> result(size_t r, size_t t) const {
    return result_of(*ranks_[r], t, terms_.dtype);
  }

  /// A host's sum of one element: what its chain is given.
  template <class Value>
  float sum(int host, size_t t, uint64_t step, size_t i, Value value) const {
    const bool averages = terms_.combine.op == ReduceOp::kAverage;
    const auto prescale = static_cast<float>(terms_.combine.prescale);
    float sum = 0;
    for (size_t r = 0; r < hosts_.size(); ++r) {
      if (layers_[r].host == host)
        sum += prescale * value(kTensors[t].id, static_cast<int>(r), step, i);
    }
    const double factor = double{1} * layers_[0].hosts / static_cast<double>(hosts_.size());
    return averages ? sum * static_cast<float>(factor) : sum;
  }

 private:
  /// When a lane fails the others are told, as an engine does.
  static std::vector<Status> drive(const std::vector<Lane*>& lanes) {
    std::vector<Status> outcomes(lanes.size());
    std::vector<bool> done(lanes.size());
    for (size_t left = lanes.size(); left > 0;) {
      for (size_t r = 0; r < lanes.size(); ++r) {
        if (done[r]) continue;
        lanes[r]->progress();
        if (!lanes[r]->idle()) continue;
        done[r] = true;
        --left;
        outcomes[r] = lanes[r]->outcome();
        if (outcomes[r].code() != Code::kPeerLost) continue;
        for (Lane* lane : lanes) lane->abort(outcomes[r]);
      }
    }
    return outcomes;
  }

  const ChainConfig config_;
  const Hosts hosts_;
  const Terms terms_;
  Aggregation how_ = Aggregation::kDense;
  std::vector<Layers> layers_;
  std::vector<std::unique_ptr<OneRank>> ranks_;
};

/// The chain with hosts for ranks, over the local backend.
class Reference {
 public:
  Reference(const std::string& text, const HostsJob& job, const Terms& terms)
      : config_(ChainConfig::parse(text).value()), job_(job), terms_(terms) {
    const int hosts = job.layers(0).hosts;
    auto hub = local::make_hub(hosts);
    std::vector<Rank> all;
    for (Rank r = 0; r < hosts; ++r) all.push_back(r);
    for (Rank r = 0; r < hosts; ++r) {
      auto& rank = *ranks_.emplace_back(std::make_unique<OneRank>());
      rank.backend = local::open(hub, r);
      rank.communicator = rank.backend->communicator(0, all, 0).value();
      equip(rank, config_, {job.how() == Aggregation::kRecode, r, hosts}, 1, 0);
    }
  }

  void step(uint64_t number) {
    std::vector<Lane*> lanes;
    for (size_t h = 0; h < ranks_.size(); ++h) {
      OneRank& rank = *ranks_[h];
      rank.slots.clear();
      for (size_t t = 0; t < kTensors.size(); ++t) {
        std::vector<float> values(kTensors[t].count());
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = job_.sum(static_cast<int>(h), t, number, i, element);
        give(rank, t, terms_.dtype, values);
        for (int c = 0; c < job_.layers(0).columns; ++c) {
          const Shard shard = shard_of(kTensors[t].id, values.size(), rank.codecs[t]->granule(),
                                       job_.layers(0).columns, c);
          add_slot(rank, t, shard.first, shard.count, terms_.dtype, number);
        }
      }
      rank.lane.start(aggregate(rank.lane, *rank.communicator, ++rank.sequence, job_.how(),
                                rank.slots, {terms_.combine.op, 1, terms_.combine.postscale}));
      lanes.push_back(&rank.lane);
    }
    support::drive(lanes);
    for (Lane* lane : lanes) ASSERT_TRUE(lane->outcome().ok());
  }
  const std::vector<std::unique_ptr<OneRank>>& ranks() const { return ranks_; }
  std::vector<float> result(size_t t) const { return result_of(*ranks_[0], t, terms_.dtype); }

 private:
  const ChainConfig config_;
  const HostsJob& job_;
  const Terms terms_;
  std::vector<std::unique_ptr<OneRank>> ranks_;
};

void expect_reference(const std::string& text, const Hosts& hosts, const Terms& terms = {}) {
  SCOPED_TRACE(text + " on " + ::testing::PrintToString(hosts));
  HostsJob job(text, hosts, terms);
  Reference reference(text, job, terms);
  for (uint64_t s = 0; s < 2; ++s) {
    for (const Status& outcome : job.step(s, element))
      ASSERT_TRUE(outcome.ok()) << outcome.message();
    reference.step(s);
    for (size_t t = 0; t < kTensors.size(); ++t) {
      for (size_t r = 0; r < hosts.size(); ++r)
        ASSERT_EQ(job.result(r, t), reference.result(t)) << "rank " << r << ", tensor " << t;
      for (size_t i = 0; i < kTensors[t].count(); i += 1 + i / 7)
        ASSERT_EQ(owed(job.ranks(), t, i), owed(reference.ranks(), t, i)) << t << " " << i;
    }
  }
}

const Hosts kPairs = {0, 0, 1, 1}, kMixed = {0, 1, 0, 1, 0}, kUneven = {0, 0, 0, 1};

TEST(AggregateHosts, GivesTheBitsOfTheChainAppliedToHostSums) {
  for (const char* text : {"onebit", "qsgd", "drop;agg=gather", "drop;agg=merge", "fp16",
                           "ef+randk:ratio=5%", "powersgd", "hadamard:block=256+onebit", "signsgd",
                           "ef+mask:ratio=5%", "terngrad", "ef+lossless"}) {
    for (const Hosts& hosts : {kPairs, kMixed}) expect_reference(text, hosts);
  }
}

TEST(AggregateHosts, TakesHostsOfAnySize) {
  const Hosts four_of_four = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  for (const Hosts& hosts :
       {kUneven, Hosts{0, 1, 2}, Hosts{0, 1, 1, 2, 2, 2}, Hosts{0, 1, 2, 0, 1, 2}, four_of_four})
    expect_reference("onebit", hosts);
}

TEST(AggregateHosts, SumsMeansAndScalesAreThoseOfAllRanks) {
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage})
    for (const Hosts& hosts : {kPairs, kMixed})
      expect_reference("fp8", hosts, {.combine = {op, 0.5, 4}});
  HostsJob job("fp16", kMixed, {.combine = {ReduceOp::kAverage, 2, 0.5}});
  for (const Status& outcome : job.step(
           0, [](uint64_t, int rank, uint64_t, size_t) { return static_cast<float>(5 * rank); }))
    ASSERT_TRUE(outcome.ok());
  for (const float mean : job.result(2, 0)) ASSERT_FLOAT_EQ(mean, 10);
}

TEST(AggregateHosts, SixteenBitGradientsAreRoundedOnceForTheHost) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16})
    expect_reference("onebit", kPairs, {.dtype = dtype});
}

TEST(AggregateHosts, SplitTensorsDoNotChangeTheResult) {
  HostsJob whole("onebit", kPairs), split("onebit", kPairs, {.split = 5 * 512});
  for (uint64_t s = 0; s < 2; ++s) {
    for (HostsJob* job : {&whole, &split})
      for (const Status& outcome : job->step(s, element)) ASSERT_TRUE(outcome.ok());
  }
  for (size_t t = 0; t < kTensors.size(); ++t) EXPECT_EQ(whole.result(3, t), split.result(0, t));
}

TEST(AggregateHosts, OnOneHostValuesTravelAsTheyAre) {
  HostsJob job("onebit", {0, 0, 0}, {.combine = {ReduceOp::kSum, 1, 1}});
  for (const Status& outcome : job.step(0, element)) ASSERT_TRUE(outcome.ok());
  const auto sum = job.result(1, 0);
  for (size_t i = 0; i < sum.size(); ++i)
    ASSERT_EQ(sum[i], element(1, 0, 0, i) + element(1, 1, 0, i) + element(1, 2, 0, i));
}

/// The memories of one rank's shard of a tensor, its own or those it has as an owner.
std::vector<float> memory_of(OneRank& rank, size_t t, bool owned) {
  const std::span<float> values = residual_in(owned ? rank.states[t]->owned : rank.states[t]->mine);
  return {values.begin(), values.end()};
}

/// After a failure a rank owes what it owed before, or all of its host's sum as well.
void expect_nothing_lost(HostsJob& job, size_t r, size_t t, const std::vector<float>& mine,
                         const std::vector<float>& owned) {
  OneRank& rank = job.rank(r);
  const std::vector<float> now = memory_of(rank, t, false), second = memory_of(rank, t, true);
  bool as_before = true, all_owed = true;
  for (size_t i = 0; i < now.size(); ++i) {
    const size_t at = rank.states[t]->mine.first + i;
    const float given = job.sum(job.layers(r).host, t, 1, at, element);
    as_before = as_before && now[i] == mine[i];
    all_owed = all_owed && std::fabs(now[i] - mine[i] - given) < 1e-4f;
  }
  ASSERT_TRUE(as_before || all_owed) << "rank " << r << ", tensor " << t;
  for (size_t i = 0; i < second.size(); ++i)
    ASSERT_NEAR(second[i], owned[i], 1e-4) << r << " " << t;
}

/// Fails operation `fails` of the second step on rank `guilty`; false: it has fewer.
bool fail_once(const std::string& text, const Hosts& hosts, size_t guilty, int fails, bool after) {
  HostsJob job(text, hosts);
  for (const Status& outcome : job.step(0, element)) EXPECT_TRUE(outcome.ok());
  support::Faults& faults = *job.rank(guilty).faults;
  if (fails >= faults.calls) return false;
  faults.fails = faults.calls + fails;
  faults.after = after;
  std::vector<std::vector<float>> mine, owned;
  for (size_t r = 0; r < hosts.size(); ++r) {
    for (size_t t = 0; t < kTensors.size(); ++t) {
      mine.push_back(memory_of(job.rank(r), t, false));
      owned.push_back(memory_of(job.rank(r), t, true));
    }
  }
  const std::vector<Status> outcomes = job.step(1, element);
  EXPECT_EQ(outcomes[guilty].code(), Code::kPeerLost);
  for (size_t r = 0; r < hosts.size(); ++r) {
    if (outcomes[r].ok()) continue;  // it had all it needed before the other failed
    for (size_t t = 0; t < kTensors.size(); ++t) {
      const size_t at = r * kTensors.size() + t;
      expect_nothing_lost(job, r, t, mine[at], owned[at]);
    }
  }
  return true;
}

TEST(AggregateHosts, WhereverItFailsMemoriesAreAsBeforeOrOweAll) {
  for (const char* text : {"onebit", "drop;agg=gather", "drop;agg=merge", "ef+randk:ratio=5%",
                           "powersgd", "ef+lossless"}) {
    for (const size_t guilty : {1, 2}) {
      if (guilty == 2 && std::string(text) != "onebit") continue;
      int fails = 0;
      for (; fails < 12; ++fails) {
        SCOPED_TRACE(std::string(text) + ", call " + std::to_string(fails));
        if (!fail_once(text, kMixed, guilty, fails, false)) break;
        fail_once(text, kMixed, guilty, fails, true);
        if (HasFatalFailure()) return;
      }
      EXPECT_GE(fails, 3) << "two inside the host, one or more between hosts";
    }
  }
}

TEST(AggregateHosts, NotANumberReachesAllAndOtherHostsOweTheirSums) {
  for (const char* text : {"onebit", "drop;agg=gather", "drop;agg=merge"}) {
    SCOPED_TRACE(text);
    HostsJob job(text, kPairs);
    for (const Status& outcome : job.step(0, element)) ASSERT_TRUE(outcome.ok());
    const auto poisoned = [](uint64_t tensor, int rank, uint64_t step, size_t i) {
      return tensor == 1 && rank == 1 && i == 700 ? std::nanf("") : element(tensor, rank, step, i);
    };
    std::vector<double> before;
    for (size_t i = 0; i < kTensors[0].count(); ++i) {
      const auto [mine, owned] = owed(job.ranks(), 0, i);
      before.push_back(mine + owned + job.sum(1, 0, 1, i, element));
    }
    for (const Status& outcome : job.step(1, poisoned)) ASSERT_TRUE(outcome.ok());
    for (size_t r = 0; r < 4; ++r) {
      const auto result = job.result(r, 0);
      ASSERT_TRUE(std::isnan(result[700]));
      for (const float x : job.result(r, 1)) ASSERT_TRUE(is_finite(x));
      for (size_t i = 0; i < result.size(); ++i) {
        if (!std::isnan(result[i])) continue;
        const auto [mine, owned] = owed(job.ranks(), 0, i);
        ASSERT_NEAR(mine + owned, before[i], 1e-4) << i;
      }
    }
  }
}

/// Judges sums whose first element is large.
class Strict final : public Around {
 public:
  using Around::Around;
  Status judge(std::span<const float> sum) const override {
    if (sum.empty() || sum[0] < 1000) return {};
    return Status(Code::kInvalidArgument, "a sum of " + std::to_string(sum[0]));
  }
};

TEST(AggregateHosts, WhatOneColumnsCodecSaysEveryRankHears) {
  HostsJob job("noef+quant:bits=8,round=nearest", kMixed);
  for (size_t r = 0; r < 5; ++r) {
    auto& codecs = job.rank(r).codecs;
    for (auto& codec : codecs) codec = std::make_unique<Strict>(std::move(codec));
  }
  for (const Status& outcome : job.step(0, element)) ASSERT_TRUE(outcome.ok());
  const auto outcomes = job.step(1, [](uint64_t tensor, int rank, uint64_t step, size_t i) {
    return tensor == 3 ? 5000.0f : element(tensor, rank, step, i);
  });
  for (const Status& outcome : outcomes) {
    EXPECT_EQ(outcome.code(), Code::kInvalidArgument);
    EXPECT_EQ(outcome.message(), outcomes[0].message());
  }
  for (const Status& outcome : job.step(2, element)) EXPECT_TRUE(outcome.ok()) << outcome.message();
}

}  // namespace
}  // namespace hora
