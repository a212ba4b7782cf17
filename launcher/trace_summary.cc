#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "launcher/trace.h"

namespace hora {
namespace {

double ms(int64_t nanoseconds) {
  return static_cast<double>(nanoseconds) * 1e-6;
}
double us(int64_t nanoseconds) {
  return static_cast<double>(nanoseconds) * 1e-3;
}

/// Durations of one kind.
class Durations {
 public:
  void add(int64_t nanoseconds) { all_.push_back(std::max<int64_t>(nanoseconds, 0)); }
  size_t count() const { return all_.size(); }
  int64_t total() const { return std::accumulate(all_.begin(), all_.end(), int64_t{0}); }
  int64_t mean() const { return all_.empty() ? 0 : total() / static_cast<int64_t>(count()); }
  /// The value below which `part` of all lie.
  int64_t quantile(double part) {
    if (all_.empty()) return 0;
    std::sort(all_.begin(), all_.end());
    return all_[std::min(static_cast<size_t>(part * static_cast<double>(count())), count() - 1)];
  }

 private:
  std::vector<int64_t> all_;
};

using Interval = std::pair<int64_t, int64_t>;

/// Sorted and without overlaps.
std::vector<Interval> united(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end());
  std::vector<Interval> result;
  for (const auto& [begin, end] : intervals) {
    if (!result.empty() && begin <= result.back().second)
      result.back().second = std::max(result.back().second, end);
    else
      result.emplace_back(begin, end);
  }
  return result;
}

int64_t length(const std::vector<Interval>& intervals) {
  int64_t sum = 0;
  for (const auto& [begin, end] : intervals) sum += end - begin;
  return sum;
}

/// How long both go on; both united.
int64_t common(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  int64_t sum = 0;
  for (size_t i = 0, k = 0; i < a.size() && k < b.size();) {
    sum +=
        std::max<int64_t>(std::min(a[i].second, b[k].second) - std::max(a[i].first, b[k].first), 0);
    a[i].second < b[k].second ? ++i : ++k;
  }
  return sum;
}

std::string phases_of(const Trace& trace) {
  std::array<std::pair<std::string_view, Durations>, 5> phases = {
      {{"submitted", {}}, {"negotiating", {}}, {"queued", {}}, {"moving", {}}, {"total", {}}}};
  for (const Trace::Life& life : trace.lives) {
    const std::array<int64_t, 5> times = {life.submitted, life.taken, life.agreed, life.begun,
                                          life.moved};
    for (size_t i = 0; i < 4 && times[i + 1] != 0; ++i)
      phases[i].second.add(times[i + 1] - times[i]);
    phases[4].second.add(life.done - life.submitted);
  }
  std::string page = fmt::format("\nrank {} on {}, {}: us of each tensor's phases\n", trace.rank,
                                 trace.host, trace.backend);
  page += fmt::format("  {:<12} {:>9} {:>10} {:>10} {:>10} {:>10}\n", "phase", "count", "mean",
                      "median", "p99", "max");
  for (auto& [name, durations] : phases)
    page += fmt::format("  {:<12} {:>9} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}\n", name,
                        durations.count(), us(durations.mean()), us(durations.quantile(0.5)),
                        us(durations.quantile(0.99)), us(durations.quantile(1)));
  if (trace.lost > 0) page += fmt::format("  {} moments were lost\n", trace.lost);
  if (trace.full) page += "  the file is full: raise HORA_TIMELINE_BYTES to see more\n";
  return page;
}

std::string overlap_of(const Trace& trace) {
  std::vector<Interval> moving, waiting;
  std::map<std::string, std::vector<Interval>> named;
  for (const Trace::Bucket& bucket : trace.buckets) moving.emplace_back(bucket.begun, bucket.ended);
  for (const Trace::Range& wait : trace.waits) waiting.emplace_back(wait.begin, wait.end);
  for (const Trace::Range& range : trace.ranges)
    named[range.name].emplace_back(range.begin, range.end);
  const auto busy = united(std::move(moving));
  const int64_t total = length(busy);
  if (total == 0) return "";
  const auto percent = [&](int64_t part) {
    return 100 * static_cast<double>(part) / static_cast<double>(total);
  };
  uint64_t bytes = 0;
  for (const Trace::Bucket& bucket : trace.buckets) bytes += bucket.bytes;
  std::string page = fmt::format(
      "rank {}: {} buckets, {:.1f} MB, moving for {:.2f} ms, {:.0f} % of it while nobody waited\n",
      trace.rank, trace.buckets.size(), static_cast<double>(bytes) * 1e-6, ms(total),
      percent(total - common(busy, united(std::move(waiting)))));
  for (auto& [name, intervals] : named) {
    const auto range = united(std::move(intervals));
    page += fmt::format("rank {}: {:.2f} ms in '{}', with {:.0f} % of the moving\n", trace.rank,
                        ms(length(range)), name, percent(common(busy, range)));
  }
  return page;
}

std::string name_in(const Trace& trace, uint64_t tensor) {
  const auto found = trace.tensors.find(tensor);
  return found == trace.tensors.end() ? "?" : found->second;
}

/// What one tensor's requests of all ranks add up to.
struct Sum {
  std::string name;
  int64_t negotiating = 0, queued = 0, moving = 0, total = 0;
  uint64_t count = 0;
};

std::string tensors_of(const std::vector<Trace>& traces, size_t limit) {
  std::map<std::string, Sum> sums;
  for (const Trace& trace : traces)
    for (const Trace::Life& life : trace.lives) {
      Sum& sum = sums[name_in(trace, life.tensor)];
      ++sum.count;
      sum.total += life.done - life.submitted;
      if (life.agreed != 0) sum.negotiating += life.agreed - life.taken;
      if (life.begun != 0) sum.queued += life.begun - life.agreed;
      if (life.moved != 0) sum.moving += life.moved - life.begun;
    }
  std::vector<Sum> order;
  for (auto& [name, sum] : sums) order.push_back(sum), order.back().name = name;
  std::sort(order.begin(), order.end(), [](const Sum& a, const Sum& b) {
    return std::tie(b.total, a.name) < std::tie(a.total, b.name);
  });
  std::string page = fmt::format("\nms of all ranks together, the {} longest of {} tensors\n",
                                 std::min(limit, order.size()), order.size());
  page += fmt::format("  {:<40} {:>7} {:>11} {:>9} {:>9} {:>9}\n", "tensor", "count", "negotiating",
                      "queued", "moving", "total");
  for (size_t i = 0; i < std::min(limit, order.size()); ++i) {
    const Sum& sum = order[i];
    page +=
        fmt::format("  {:<40} {:>7} {:>11.3f} {:>9.3f} {:>9.3f} {:>9.3f}\n", sum.name, sum.count,
                    ms(sum.negotiating), ms(sum.queued), ms(sum.moving), ms(sum.total));
  }
  return page;
}

/// When a rank submitted the last of what a bucket needed, and what it was.
struct Submit {
  int64_t at = 0;
  uint64_t tensor = 0;
};

std::unordered_map<uint64_t, std::map<Rank, Submit>> last_submits(
    const std::vector<Trace>& traces) {
  std::unordered_map<uint64_t, std::map<Rank, Submit>> last;  // by plan
  for (const Trace& trace : traces)
    for (const Trace::Life& life : trace.lives) {
      if (life.plan == 0) continue;
      Submit& known = last[life.plan][trace.rank];
      if (life.submitted > known.at) known = {life.submitted, life.tensor};
    }
  return last;
}

/// How often each rank was the last to submit what a bucket needed, and for how long the first one
/// had waited for it.
std::string late_of(const std::vector<Trace>& traces) {
  struct Late {
    uint64_t times = 0, tensor = 0;
    int64_t held = 0, longest = 0;
  };
  std::map<Rank, Late> late;
  uint64_t compared = 0;
  for (const auto& [plan, submits] : last_submits(traces)) {
    if (submits.size() < 2) continue;
    ++compared;
    const auto by_time = [](const auto& a, const auto& b) { return a.second.at < b.second.at; };
    const auto [first, last] = std::minmax_element(submits.begin(), submits.end(), by_time);
    const int64_t held = last->second.at - first->second.at;
    Late& who = late[last->first];
    ++who.times;
    who.held += held;
    if (held >= who.longest) who.longest = held, who.tensor = last->second.tensor;
  }
  if (compared == 0) return "";
  std::string page = fmt::format("\nwho was late, in {} buckets\n", compared);
  page += fmt::format("  {:<6} {:>8} {:>12} {:>12} {:>12}  {}\n", "rank", "last", "mean us",
                      "longest us", "sum ms", "longest at");
  for (const Trace& trace : traces) {
    const Late& who = late[trace.rank];
    const double mean = who.times ? us(who.held) / static_cast<double>(who.times) : 0;
    page +=
        fmt::format("  {:<6} {:>7.0f}% {:>12.1f} {:>12.1f} {:>12.2f}  {}\n", trace.rank,
                    100 * static_cast<double>(who.times) / static_cast<double>(compared), mean,
                    us(who.longest), ms(who.held), who.times ? name_in(trace, who.tensor) : "-");
  }
  return page;
}

}  // namespace

std::string trace_summary(const std::vector<Trace>& traces, size_t tensors) {
  std::string page;
  for (const Trace& trace : traces) page += overlap_of(trace);
  for (const Trace& trace : traces) page += phases_of(trace);
  return page + late_of(traces) + tensors_of(traces, tensors);
}

}  // namespace hora
