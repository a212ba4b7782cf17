#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "compressors/convert.h"
#include "compressors/state_store.h"
#include "compressors/stripes.h"
#include "ops/aggregate.h"
#include "ops/local/local.h"
#include "tests/compressors/trial.h"
#include "tests/support/faulty_backend.h"

namespace hora {

struct TensorSpec {
  uint64_t id;
  size_t count;
};
inline const std::vector<TensorSpec> kTensors = {{1, 5000}, {2, 1200}, {3, 1},
                                                 {4, 3001}, {7, 0},    {8, 513}};

constexpr size_t kMostElements = 5000;  // of a tensor

inline float element(uint64_t tensor, int rank, uint64_t step, size_t i) {
  const Key key = make_key(9, step, tensor, static_cast<uint64_t>(rank));
  const float u = unit_interval(random_bits(key, static_cast<uint32_t>(i))) - 0.5f;
  return u * (1 + static_cast<float>(i % 7));
}

struct Options {
  bool fused = true;  // one bucket for all tensors
  size_t split = 0;   // tensors travel in pieces of so many elements
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kAverage;
  double prescale = 1, postscale = 1;
  bool threads = false;
  int fails = -1;  // communicator call that fails
  bool after = false;
  /// Puts something around a rank's communicator.
  std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)> wrap = nullptr;
};

/// One job: ranks, tensors, their states, one step after another.
class Job {
 public:
  Job(const std::string& text, int ranks, std::vector<TensorSpec> tensors, Options options)
      : config_(ChainConfig::parse(text).value()), options_(options), tensors_(std::move(tensors)) {
    auto hub = local::make_hub(ranks);
    std::vector<Rank> members;
    for (Rank r = 0; r < ranks; ++r) members.push_back(r);
    for (Rank r = 0; r < ranks; ++r) {
      auto& rank = ranks_.emplace_back(std::make_unique<OneRank>());
      rank->backend = local::open(hub, r);
      rank->faults->fails = options.fails;
      rank->faults->after = options.after;
      rank->communicator = std::make_unique<support::FaultyCommunicator>(
          rank->backend->communicator(0, members, 0).value(), rank->faults);
      if (options.wrap) rank->communicator = options.wrap(std::move(rank->communicator));
      rank->until.resize(tensors_.size());
      for (size_t i = 0; i < tensors_.size(); ++i) {
        const TensorSpec& t = tensors_[i];
        rank->codecs.push_back(config_.codec({t.id, 1, t.count}, 0, &rank->until[i]).value());
        const ChainConfig* const down = config_.down();
        rank->downs.push_back(down ? down->codec({t.id, 1, t.count}).value() : nullptr);
        how_ = config_.aggregation(*rank->codecs.back(), ranks);
        rank->store.get(0, std::to_string(t.id), *rank->codecs.back(), config_.canonical(),
                        {how_ == Aggregation::kRecode, r, ranks}, rank->downs.back().get());
      }
      rank->gradients.resize(tensors_.size());
      rank->results.resize(tensors_.size());
    }
  }

  int size() const { return static_cast<int>(ranks_.size()); }
  Aggregation how() const { return how_; }
  int calls() const { return ranks_[0]->faults->calls; }
  /// Bytes that a rank has sent in the last step, on average.
  uint64_t sent() const {
    uint64_t sum = 0;
    for (const auto& rank : ranks_) sum += rank->sent;
    return sum / ranks_.size();
  }

  /// Runs one step on given gradients: values[rank][tensor][i].
  std::vector<Status> step(uint64_t number,
                           const std::function<float(uint64_t, int, uint64_t, size_t)>& value) {
    for (int r = 0; r < size(); ++r) {
      OneRank& rank = *ranks_[static_cast<size_t>(r)];
      rank.context = {.seed = 42, .step = number, .rank = r, .size = size()};
      rank.slots.clear();
      rank.sent = 0;
      for (size_t t = 0; t < tensors_.size(); ++t) prepare(rank, r, t, number, value);
    }
    const size_t buckets = options_.fused ? 1 : ranks_[0]->slots.size();
    std::vector<Status> outcomes(ranks_.size());
    for (size_t b = 0; b < buckets; ++b) run_bucket(b, outcomes);
    return outcomes;
  }

  /// The result of `tensor` on `rank` as float32.
  std::vector<float> result(int rank, size_t tensor) const {
    std::vector<float> wide(tensors_[tensor].count);
    widen(options_.dtype, ranks_[static_cast<size_t>(rank)]->results[tensor].data(), wide.data(),
          wide.size());
    return wide;
  }
  std::span<const std::byte> bytes(int rank, size_t tensor) const {
    return ranks_[static_cast<size_t>(rank)]->results[tensor];
  }

  /// All that is owed for one element, over ranks and owners.
  double owed(size_t tensor, size_t i) {
    double sum = 0;
    for (const auto& rank : ranks_) {
      const Codec& codec = *rank->codecs[tensor];
      TensorState& state = states(*rank, tensor);
      if (const State::Slab* e = state.mine.slab("residual")) sum += double{value_of(*e, i)};
      const size_t granule = granule_of(codec, rank->downs[tensor].get());
      const Stripes stripes(codec.extent().id, codec.extent().count(), granule, size());
      const State::Slab* e = state.owned.slab("residual");
      const int me = rank->communicator->rank();
      if (e && how_ == Aggregation::kRecode && stripes.owner(i) == me)
        sum += double{value_of(*e, stripes.slot(i))};
    }
    return sum;
  }
  /// What one rank owes of a tensor.
  std::vector<float> residual(int rank, size_t tensor) {
    const float* e = states(*ranks_[static_cast<size_t>(rank)], tensor).mine.find("residual");
    return {e, e + tensors_[tensor].count};
  }
  size_t tensors() const { return tensors_.size(); }
  size_t count(size_t tensor) const { return tensors_[tensor].count; }
  uint64_t id(size_t tensor) const { return tensors_[tensor].id; }
  bool conserves() const {
    const Codec* const down = ranks_[0]->downs[0].get();
    return ranks_[0]->codecs[0]->traits().conserves && (!down || down->traits().conserves);
  }
  size_t granule() const { return granule_of(*ranks_[0]->codecs[0], ranks_[0]->downs[0].get()); }

 private:
  struct OneRank {
    std::unique_ptr<Backend> backend;
    std::shared_ptr<support::Faults> faults = std::make_shared<support::Faults>();
    std::unique_ptr<Communicator> communicator;
    Lane lane{0};
    std::vector<std::unique_ptr<Codec>> codecs, downs;
    std::vector<uint64_t> until;  // the first step that needs another codec
    StateStore store;
    StepContext context;
    uint64_t sequence = 0, sent = 0;
    std::vector<std::vector<std::byte>> gradients, results;
    std::vector<Slot> slots;
  };

  static float value_of(const State::Slab& slab, size_t i) {
    return slab.spec.half ? float_of(uint32_t{slab.halves[i]} << 16) : slab.values[i];
  }

  TensorState& states(OneRank& rank, size_t t) {
    return rank.store.get(0, std::to_string(tensors_[t].id), *rank.codecs[t], config_.canonical(),
                          {how_ == Aggregation::kRecode, rank.communicator->rank(), size()},
                          rank.downs[t].get());
  }

  void prepare(OneRank& rank, int r, size_t t, uint64_t number,
               const std::function<float(uint64_t, int, uint64_t, size_t)>& value) {
    if (number >= rank.until[t]) {
      const Extent extent{tensors_[t].id, 1, tensors_[t].count};
      rank.codecs[t] = config_.codec(extent, number, &rank.until[t]).value();
    }
    const size_t count = tensors_[t].count, width = bytes_of(options_.dtype);
    std::vector<float> wide(count);
    for (size_t i = 0; i < count; ++i) wide[i] = value(tensors_[t].id, r, number, i);
    rank.gradients[t].resize(count * width);
    narrow(options_.dtype, wide.data(), rank.gradients[t].data(), count);
    rank.results[t] = rank.gradients[t];  // in place: the result takes the gradient's memory
    TensorState& state = states(rank, t);
    const size_t piece = options_.split ? options_.split : std::max<size_t>(count, 1);
    for (size_t first = 0; first < std::max<size_t>(count, 1); first += piece) {
      std::byte* at = rank.results[t].data() + first * width;
      rank.slots.push_back({rank.codecs[t].get(), rank.downs[t].get(), at, at, options_.dtype,
                            first, std::min(piece, count - first), &state.mine, &state.owned,
                            rank.context});
    }
  }

  Ticket bucket(OneRank& rank, size_t b) {
    const std::span<const Slot> all(rank.slots);
    return aggregate(
        rank.lane, *rank.communicator, ++rank.sequence, how_,
        options_.fused ? all : all.subspan(b, 1),
        {options_.op, options_.prescale, options_.postscale, config_.degrees(), &rank.sent});
  }

  void run_bucket(size_t b, std::vector<Status>& outcomes) {
    if (options_.threads) {
      std::vector<std::jthread> threads;
      for (auto& rank : ranks_) {
        threads.emplace_back([&, r = rank.get()] {
          r->lane.start(bucket(*r, b));
          while (!r->lane.idle()) {
            if (!r->lane.progress()) std::this_thread::yield();
          }
        });
      }
    } else {
      for (auto& rank : ranks_) rank->lane.start(bucket(*rank, b));
      for (bool busy = true; busy;) {
        busy = false;
        for (auto& rank : ranks_) {
          if (rank->lane.idle()) continue;
          rank->lane.progress();
          busy = true;
        }
      }
    }
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Status outcome = ranks_[r]->lane.outcome();
      if (!outcome.ok()) outcomes[r] = std::move(outcome);
    }
  }

  const ChainConfig config_;
  const Options options_;
  const std::vector<TensorSpec> tensors_;
  Aggregation how_ = Aggregation::kDense;
  std::vector<std::unique_ptr<OneRank>> ranks_;
};

inline void expect_ok(const std::vector<Status>& outcomes) {
  for (const Status& outcome : outcomes) ASSERT_TRUE(outcome.ok()) << outcome.message();
}

inline std::vector<std::vector<float>> results_after(const std::string& text, int ranks,
                                                     Options options, int steps,
                                                     std::vector<TensorSpec> tensors = kTensors) {
  Job job(text, ranks, std::move(tensors), options);
  for (int s = 0; s < steps; ++s) expect_ok(job.step(static_cast<uint64_t>(s), element));
  std::vector<std::vector<float>> all;
  for (size_t t = 0; t < job.tensors(); ++t) all.push_back(job.result(0, t));
  return all;
}

}  // namespace hora
