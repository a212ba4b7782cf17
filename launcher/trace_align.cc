#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "launcher/trace.h"

namespace hora {
namespace {

Status belong_together(const std::vector<Trace>& traces) {
  for (size_t i = 1; i < traces.size(); ++i) {
    const Trace &a = traces[i - 1], &b = traces[i];
    if (a.rank == b.rank)
      return Status(Code::kInvalidArgument,
                    fmt::format("{} and {} are both of rank {}: give one file of each rank", a.path,
                                b.path, a.rank));
    if (a.job != b.job || a.epoch != b.epoch)
      return Status(
          Code::kInvalidArgument,
          fmt::format("{} and {} are of two runs (job '{}', start {}, and job '{}', start {}): "
                      "give files of one run",
                      a.path, b.path, a.job, a.epoch, b.job, b.epoch));
  }
  return {};
}

using Span = std::pair<int64_t, int64_t>;

/// When the last rank of a host began each allreduce and when the first one ended it, by plan: the
/// tightest bounds it gives. Those that failed are left out; their ranks may have ended alone.
std::unordered_map<uint64_t, Span> allreduces_of(const std::vector<Trace>& traces,
                                                 const std::string& host) {
  std::unordered_map<uint64_t, Span> spans;
  for (const Trace& trace : traces) {
    if (trace.host != host) continue;
    for (const Trace::Bucket& bucket : trace.buckets) {
      if (bucket.op != "allreduce" || !bucket.error.empty()) continue;
      Span& span = spans.try_emplace(bucket.plan, bucket.begun, bucket.ended).first->second;
      span.first = std::max(span.first, bucket.begun);
      span.second = std::min(span.second, bucket.ended);
    }
  }
  return spans;
}

/// What to add to times of `host` so that they are the reference host's; `guess` if nothing tells.
int64_t shift_of(const std::vector<Trace>& traces, const std::string& host, int64_t guess) {
  const auto ours = allreduces_of(traces, traces[0].host);
  const auto theirs = allreduces_of(traces, host);
  int64_t low = INT64_MIN, high = INT64_MAX;
  std::vector<int64_t> middles;
  for (const auto& [plan, their] : theirs) {
    const auto found = ours.find(plan);
    if (found == ours.end()) continue;
    const int64_t at_least = found->second.first - their.second;
    const int64_t at_most = found->second.second - their.first;
    low = std::max(low, at_least);
    high = std::min(high, at_most);
    middles.push_back(at_least + (at_most - at_least) / 2);
  }
  if (middles.empty()) return guess;
  if (low <= high) return low + (high - low) / 2;
  // The clocks went at different speeds: no difference fits all.
  const auto middle = middles.begin() + static_cast<std::ptrdiff_t>(middles.size() / 2);
  std::nth_element(middles.begin(), middle, middles.end());
  return *middle;
}

void add(Trace& trace, int64_t shift) {
  trace.base += shift;
  for (Trace::Life& life : trace.lives)
    for (int64_t* time :
         {&life.submitted, &life.taken, &life.agreed, &life.begun, &life.moved, &life.done})
      if (*time != 0) *time += shift;
  for (Trace::Bucket& bucket : trace.buckets) bucket.begun += shift, bucket.ended += shift;
  for (auto* ranges : {&trace.waits, &trace.ranges})
    for (Trace::Range& range : *ranges) range.begin += shift, range.end += shift;
}

}  // namespace

Status align(std::vector<Trace>& traces) {
  std::sort(traces.begin(), traces.end(),
            [](const Trace& a, const Trace& b) { return a.rank < b.rank; });
  HORA_TRY(belong_together(traces));
  std::map<std::string, int64_t> shifts;
  for (const Trace& trace : traces) {
    if (shifts.contains(trace.host)) continue;
    const int64_t by_wall_clock =
        (trace.unix_ns - trace.base) - (traces[0].unix_ns - traces[0].base);
    shifts[trace.host] =
        trace.host == traces[0].host ? 0 : shift_of(traces, trace.host, by_wall_clock);
  }
  int64_t first = INT64_MAX;
  for (const Trace& trace : traces) first = std::min(first, trace.base + shifts[trace.host]);
  for (Trace& trace : traces) add(trace, shifts[trace.host] - first);
  return {};
}

}  // namespace hora
