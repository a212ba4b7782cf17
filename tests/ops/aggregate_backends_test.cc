// Goal: every aggregation gives the same bits over every backend, threads or processes: those of
// ranks that are threads of one process. (A backend that adds in an order of its own is given what
// rounding explains where payloads are sums.)
// Method: each rank exchanges some steps over the backend, then goes through the whole job by
// itself over the local backend, and compares results and memories. Tensors of 0 and 1 elements, of
// fewer than there are ranks, and of counts that nothing divides.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "compressors/state_store.h"
#include "ops/aggregate.h"
#include "ops/local/local.h"
#include "tests/support/backend_fixture.h"

namespace hora {
namespace {

using support::Party;

constexpr size_t kCounts[] = {5000, 1, 0, 3, 70001, 513};
constexpr uint64_t kSteps = 2;

/// Of means below 3.5, whose sums some backends round to 16 bits inside a host, between hosts and
/// at the end: three times half a unit of 11 bits.
constexpr float kOtherOrder = 3 * 3.5f / 2048;

float element(size_t tensor, int rank, uint64_t step, size_t i) {
  const Key key = make_key(11, step, tensor, static_cast<uint64_t>(rank));
  const float u = unit_interval(random_bits(key, static_cast<uint32_t>(i))) - 0.5f;
  return u * (1 + static_cast<float>(i % 7));
}

/// One rank's tensors and memories.
class Member {
 public:
  Member(const std::string& text, int rank, int size)
      : config_(ChainConfig::parse(text).value()), rank_(rank), size_(size) {
    for (size_t t = 0; t < std::size(kCounts); ++t) {
      codecs_.push_back(config_.codec({t + 1, 1, kCounts[t]}).value());
      how_ = config_.aggregation(*codecs_.back(), size);
    }
    results_.resize(std::size(kCounts));
  }

  /// Payloads are added up by the backend, and not as integers.
  bool rounds() const {
    const Codec& codec = *codecs_.front();
    return how_ == Aggregation::kLinear && is_float(codec.wire(codec.rounds() - 1));
  }

  Ticket exchange(Lane& lane, Communicator& over, uint64_t step) {
    slots_.clear();
    for (size_t t = 0; t < std::size(kCounts); ++t) {
      results_[t].resize(kCounts[t]);
      for (size_t i = 0; i < kCounts[t]; ++i) results_[t][i] = element(t, rank_, step, i);
      TensorState& state = store_.get(0, std::to_string(t), *codecs_[t], config_.canonical(),
                                      {how_ == Aggregation::kRecode, rank_, size_, true});
      auto* data = reinterpret_cast<std::byte*>(results_[t].data());
      Slot& slot = slots_.emplace_back();
      slot.codec = codecs_[t].get();
      slot.input = slot.result = data;
      slot.count = kCounts[t];
      slot.mine = &state.mine;
      slot.owned = &state.owned;
      slot.step = {.seed = 42, .step = step, .rank = rank_, .size = size_};
    }
    return aggregate(lane, over, step + 1, how_, slots_, {});
  }

  /// Where it differs from `other`, by more than `tolerance`; empty if nowhere.
  std::string differs(Member& other, float tolerance) {
    for (size_t t = 0; t < std::size(kCounts); ++t) {
      const std::string name = "tensor " + std::to_string(t);
      HORA_WANT(close(results_[t], other.results_[t], tolerance), name + ", result");
      const std::vector<float> mine = memory(t), theirs = other.memory(t);
      HORA_WANT(close(mine, theirs, tolerance), name + ", memory");
    }
    return "";
  }

 private:
  std::vector<float> memory(size_t t) {
    State& state = *slots_[t].mine;
    return state.slabs.empty() ? std::vector<float>() : state.slabs[0].values;
  }
  static bool close(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [&](float x, float y) { return std::fabs(x - y) <= tolerance; });
  }

  const ChainConfig config_;
  const int rank_, size_;
  Aggregation how_ = Aggregation::kDense;
  std::vector<std::unique_ptr<Codec>> codecs_;
  StateStore store_;
  std::vector<std::vector<float>> results_;
  std::vector<Slot> slots_;
};

/// All ranks of the job over the local backend, driven by this thread; gives that of `rank`.
std::string run_here(const std::string& text, int rank, int size, std::unique_ptr<Member>& wanted) {
  auto hub = local::make_hub(size);
  std::vector<Rank> ranks;
  for (Rank r = 0; r < size; ++r) ranks.push_back(r);
  std::vector<std::unique_ptr<Member>> members;
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Lane*> all;
  for (Rank r = 0; r < size; ++r) {
    members.push_back(std::make_unique<Member>(text, r, size));
    backends.push_back(local::open(hub, r));
    communicators.push_back(backends.back()->communicator(0, ranks, 0).value());
    lanes.push_back(std::make_unique<Lane>(0));
    all.push_back(lanes.back().get());
  }
  for (uint64_t step = 0; step < kSteps; ++step) {
    for (size_t r = 0; r < all.size(); ++r)
      all[r]->start(members[r]->exchange(*all[r], *communicators[r], step));
    support::drive(all);
    for (Lane* lane : all) HORA_WANT_OK(lane->outcome());
  }
  wanted = std::move(members[static_cast<size_t>(rank)]);
  return "";
}

std::string exchange_and_compare(Party& party, const std::string& text) {
  Member member(text, party.rank(), party.size());
  for (uint64_t step = 0; step < kSteps; ++step)
    HORA_WANT_OK(party.run(member.exchange(party.lane(), party.world(), step)));
  std::unique_ptr<Member> expected;
  HORA_WANT_NOTHING(run_here(text, party.rank(), party.size(), expected));
  const bool exact = !party.of().own_order || !member.rounds();
  return member.differs(*expected, exact ? 0.0f : kOtherOrder);
}

class AggregateOver : public support::OnBackend {
 protected:
  static void compare(const std::string& text) {
    const bool slow = GetParam().slowness > 4 || GetParam().processes;
    for (const int size : slow ? std::vector<int>{2, 3, 4} : std::vector<int>{1, 2, 3, 5, 8}) {
      SCOPED_TRACE(text);
      check(size, [&](Party& party) { return exchange_and_compare(party, text); });
    }
  }
};

TEST_P(AggregateOver, LinearGivesTheSameBits) {
  compare("fp16");
}
TEST_P(AggregateOver, LowRankInTwoRoundsGivesTheSameBits) {
  compare("powersgd");
}
TEST_P(AggregateOver, IntegersOfASharedScaleGiveTheSameBits) {
  compare("terngrad");
}
TEST_P(AggregateOver, SharedPositionsGiveTheSameBits) {
  compare("ef+randk:ratio=5%");
  compare("ef+mask:ratio=5%");
}
TEST_P(AggregateOver, RecodeGivesTheSameBits) {
  compare("onebit");
  compare("qsgd");
  compare("ef+quant:bits=8,round=nearest");  // several messages to each owner
}
TEST_P(AggregateOver, PayloadsOfSizesThatVaryGiveTheSameBits) {
  compare("ef+lossless");
  compare("strom:tau=0.5;agg=gather");
}
TEST_P(AggregateOver, VotesGiveTheSameBits) {
  compare("signsgd");
}
TEST_P(AggregateOver, GatherGivesTheSameBits) {
  compare("drop;agg=gather");
  compare("ef+topk:ratio=5%+quant:bits=4+golomb:k=4;agg=gather");
}
TEST_P(AggregateOver, MergeGivesTheSameBits) {
  compare("drop;agg=merge");
  compare("ef+topk:ratio=30%;agg=merge");
}

INSTANTIATE_TEST_SUITE_P(Backends, AggregateOver, ::testing::ValuesIn(support::backend_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hora
