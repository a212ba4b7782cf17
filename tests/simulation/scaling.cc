#include "tests/simulation/scaling.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <queue>
#include <string>
#include <utility>

#include "runtime/negotiator.h"

namespace hora {
namespace {

std::vector<Position> tree_of(const ScalingCase& scaling) {
  std::vector<int> hosts;
  for (int r = 0; r < scaling.ranks; ++r) hosts.push_back(scaling.star ? r : r / scaling.per_host);
  return make_tree(hosts, scaling.star ? scaling.ranks : scaling.arity);
}

// Frames on their way, and when every rank's engine is free again.
class Wires {
 public:
  struct Arrival {
    Time at = 0;
    uint64_t order = 0;
    Rank to = 0, from = 0;
    uint64_t value = 0;  ///< what the caller sent along
    bool operator>(const Arrival& o) const { return at != o.at ? at > o.at : order > o.order; }
  };

  Wires(const ScalingCase& scaling, const NetworkModel& network)
      : network_(network),
        per_host_(scaling.per_host),
        busy_(static_cast<size_t>(scaling.ranks)),
        in_(busy_.size()),
        out_(busy_.size()),
        bytes_(busy_.size()) {}

  void send(Time now, Rank from, Rank to, uint64_t value, size_t bytes = 0) {
    const auto at = static_cast<size_t>(from);
    busy_[at] = std::max(busy_[at], now) + cost(from, to);
    ++out_[at], bytes_[at] += bytes;
    arrivals_.push({busy_[at] + (local(from, to) ? network_.local_hop : network_.hop), order_++, to,
                    from, value});
  }

  /// The next frame, and when its receiver is done with it. False: there is none.
  bool next(Arrival& arrival) {
    if (arrivals_.empty()) return false;
    arrival = arrivals_.top();
    arrivals_.pop();
    const auto at = static_cast<size_t>(arrival.to);
    ++in_[at];
    arrival.at = busy_[at] = std::max(busy_[at], arrival.at) + cost(arrival.from, arrival.to);
    return true;
  }

  Time free_at(Rank rank) const { return busy_[static_cast<size_t>(rank)]; }

  void forget_traffic() {
    for (auto* each : {&in_, &out_, &bytes_}) std::ranges::fill(*each, 0);
  }

  StepCost traffic() const {
    StepCost cost;
    for (size_t r = 0; r < busy_.size(); ++r) {
      if (in_[r] + out_[r] > cost.frames_in + cost.frames_out)
        cost.frames_in = in_[r], cost.frames_out = out_[r];
      cost.bytes_most = std::max(cost.bytes_most, bytes_[r]);
      cost.frames_mean += static_cast<double>(out_[r]);
      cost.bytes_mean += static_cast<double>(bytes_[r]);
    }
    const auto ranks = static_cast<double>(busy_.size());
    cost.frames_mean /= ranks, cost.bytes_mean /= ranks;
    return cost;
  }

 private:
  bool local(Rank a, Rank b) const { return a / per_host_ == b / per_host_; }
  Time cost(Rank a, Rank b) const { return local(a, b) ? network_.local_cost : network_.cost; }

  const NetworkModel network_;
  const int per_host_;
  uint64_t order_ = 0;
  std::vector<Time> busy_;
  std::vector<uint64_t> in_, out_, bytes_;
  std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> arrivals_;
};

class Cluster {
 public:
  Cluster(const ScalingCase& scaling, const NetworkModel& network)
      : scaling_(scaling),
        tree_(tree_of(scaling)),
        wires_(scaling, network),
        told_(tree_.size()),
        heard_at_(tree_.size()) {
    Options options;
    options.heartbeats = false, options.bucket_bytes = 1 << 20;
    options.cache_capacity = 1 << 20;
    for (const Position& at : tree_)
      ranks_.push_back(std::make_unique<Negotiator>(at, scaling.ranks, 1, options, 0));
    for (int t = 0; t < scaling.tensors; ++t) {
      Submission& each = submissions_.emplace_back();
      each.handle = static_cast<Handle>(t) + 1, each.name = "layer." + std::to_string(t);
      each.signature.domain = 1, each.signature.dtype = DType::kFloat32;
      each.signature.shapes = {{static_cast<int64_t>(scaling.tensor_bytes / 4)}};
    }
  }

  // Nobody looks at a submission once it is decided, so all ranks and steps share them.
  StepCost step(bool one_by_one) {
    now_ += 10'000'000'000;
    wires_.forget_traffic();
    buckets_ = 0;
    Inputs in;
    for (Rank rank = 0; rank < scaling_.ranks; ++rank) {
      for (const Submission& each : submissions_) {
        in.requests.push_back(&each);
        if (one_by_one) feed(rank, now_, in);
      }
      in.flushes.push_back(1);
      feed(rank, now_, in);
    }
    Wires::Arrival arrival;
    while (wires_.next(arrival)) {
      std::string& frame = frames_[arrival.value];
      in.messages.push_back({arrival.from, frame});
      feed(arrival.to, arrival.at, in);
      free_frames_.push_back(static_cast<uint32_t>(arrival.value));
    }
    StepCost cost = wires_.traffic();
    cost.buckets = buckets_;
    cost.agreed = *std::ranges::max_element(heard_at_) - now_;
    return cost;
  }

  uint64_t engine_steps() const { return engine_steps_; }
  bool all_told_alike() const {
    return std::ranges::all_of(told_, [&](uint64_t each) { return each == told_[0]; });
  }

 private:
  void feed(Rank rank, Time at, Inputs& in) {
    const auto index = static_cast<size_t>(rank);
    ranks_[index]->step(at, in, out_);
    ++engine_steps_;
    in.clear();
    for (auto& send : out_.sends) {
      if (free_frames_.empty()) {
        free_frames_.push_back(static_cast<uint32_t>(frames_.size()));
        frames_.emplace_back();
      }
      const uint32_t frame = free_frames_.back();
      free_frames_.pop_back();
      frames_[frame] = send.bytes;
      wires_.send(at, rank, send.to, frame, send.bytes.size());
    }
    if (out_.plans.empty()) return;
    heard_at_[index] = std::max(at, wires_.free_at(rank));
    if (rank == 0) buckets_ += out_.plans.size();
    for (const Plan& plan : out_.plans)
      for (const Slice& slice : plan.slices)
        told_[index] = (told_[index] ^ (plan.seq * 31 + slice.id)) * 1'099'511'628'211u;
    if (rank != 0) return;
    Inputs done;  // the root's lanes take no time, so that only the control plane is measured
    for (const Plan& plan : out_.plans) done.finished.push_back(plan.seq);
    feed(rank, heard_at_[index], done);
  }

  const ScalingCase scaling_;
  const std::vector<Position> tree_;
  Wires wires_;
  std::vector<std::unique_ptr<Negotiator>> ranks_;
  std::deque<Submission> submissions_;
  std::deque<std::string> frames_;
  std::vector<uint32_t> free_frames_;
  std::vector<uint64_t> told_;  ///< over all plans
  std::vector<Time> heard_at_;
  Outputs out_;
  Time now_ = 0;
  uint64_t buckets_ = 0, engine_steps_ = 0;
};

}  // namespace

ScalingResult simulate_scaling(const ScalingCase& scaling, const NetworkModel& network) {
  Cluster cluster(scaling, network);
  ScalingResult result;
  result.first = cluster.step(false);
  cluster.step(false);  // when the first tensor comes round again, buckets are made
  result.steady = cluster.step(false);
  result.one_by_one = cluster.step(true);
  result.engine_steps = cluster.engine_steps();
  result.agreed = cluster.all_told_alike();
  return result;
}

StepCost model_scaling(const ScalingCase& scaling, const NetworkModel& network, int frames) {
  const std::vector<Position> tree = tree_of(scaling);
  Wires wires(scaling, network);
  std::vector<size_t> heard(tree.size() * static_cast<size_t>(frames));
  Time last = 0;
  const auto down = [&](Time at, Rank rank, uint64_t which) {
    for (const Rank child : tree[static_cast<size_t>(rank)].children)
      wires.send(at, rank, child, which);
    last = std::max({last, at, wires.free_at(rank)});
  };
  const auto up = [&](Time at, Rank rank, uint64_t which) {
    const Position& position = tree[static_cast<size_t>(rank)];
    size_t& count = heard[static_cast<size_t>(rank) * static_cast<size_t>(frames) + which];
    if (++count <= position.children.size()) return;  // itself and each child
    if (position.parent >= 0)
      wires.send(at, rank, position.parent, which);
    else
      down(at, rank, which);
  };
  for (Rank rank = 0; rank < scaling.ranks; ++rank)
    for (int which = 0; which < frames; ++which) up(0, rank, static_cast<uint64_t>(which));
  Wires::Arrival arrival;
  while (wires.next(arrival)) {
    if (arrival.from == tree[static_cast<size_t>(arrival.to)].parent)
      down(arrival.at, arrival.to, arrival.value);
    else
      up(arrival.at, arrival.to, arrival.value);
  }
  StepCost cost = wires.traffic();
  cost.buckets = static_cast<uint64_t>(frames);
  cost.agreed = last;
  return cost;
}

}  // namespace hora
