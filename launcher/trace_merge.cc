#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launcher/trace.h"

namespace hora {
namespace {

std::string as_json(std::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

double microseconds(int64_t nanoseconds) {
  return static_cast<double>(nanoseconds) * 1e-3;
}

/// Writes events, one in each line.
class Events {
 public:
  void name(Rank rank, uint64_t track, std::string_view name) {
    begin();
    const bool process = track == 0;
    fmt::format_to(out(), R"({{"ph":"M","pid":{},"tid":{},"name":"{}","args":{{"name":{}}}}})",
                   rank, track, process ? "process_name" : "thread_name", as_json(name));
  }
  void bar(Rank rank, uint64_t track, std::string_view name, int64_t from, int64_t to,
           std::string_view args = "{}") {
    begin();
    fmt::format_to(out(),
                   R"({{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":{},"args":{}}})",
                   rank, track, microseconds(from), microseconds(std::max<int64_t>(to - from, 0)),
                   as_json(name), args);
  }
  /// One end of an arrow; it is drawn between the bars of these tracks at these times.
  void arrow(bool head, Rank rank, uint64_t track, int64_t at, std::string_view id) {
    begin();
    fmt::format_to(out(),
                   R"({{"ph":"{}",{}"cat":"late","id":"{}","pid":{},"tid":{},"ts":{:.3f},)"
                   R"("name":"last to submit"}})",
                   head ? "f" : "s", head ? R"("bp":"e",)" : "", id, rank, track, microseconds(at));
  }
  std::string text() && { return std::move(text_ += "\n]\n"); }

 private:
  void begin() { text_ += std::exchange(first_, false) ? "[\n" : ",\n"; }
  std::back_insert_iterator<std::string> out() { return std::back_inserter(text_); }
  std::string text_;
  bool first_ = true;
};

constexpr uint64_t kFirstLane = 1, kWaits = 90, kRanges = 91;

void write_life(Events& events, Rank rank, const Trace::Life& life) {
  std::string args = fmt::format(R"({{"plan":{})", life.plan);
  if (!life.error.empty()) args += fmt::format(R"(,"error":{})", as_json(life.error));
  args += "}";
  events.bar(rank, life.tensor, life.op, life.submitted, life.done, args);
  const std::array<std::pair<std::string_view, int64_t>, 5> phases = {{{"submitted", life.taken},
                                                                       {"negotiating", life.agreed},
                                                                       {"queued", life.begun},
                                                                       {"moving", life.moved},
                                                                       {"done", life.done}}};
  int64_t from = life.submitted;
  for (const auto& [name, until] : phases) {
    if (until == 0) break;
    if (name != "done") events.bar(rank, life.tensor, name, from, until);
    from = until;
  }
}

void write_trace(Events& events, const Trace& trace) {
  const Rank rank = trace.rank;
  events.name(rank, 0, fmt::format("rank {} of {} on {}", rank, trace.size, trace.host));
  int lanes = 0;
  for (const Trace::Bucket& bucket : trace.buckets) lanes = std::max(lanes, bucket.lane + 1);
  for (int lane = 0; lane < lanes; ++lane)
    events.name(rank, kFirstLane + static_cast<uint64_t>(lane), fmt::format("lane {}", lane));
  events.name(rank, kWaits, "waits");
  events.name(rank, kRanges, "program");
  for (const auto& [track, name] : trace.tensors) events.name(rank, track, name);
  for (const Trace::Life& life : trace.lives) write_life(events, rank, life);
  for (const Trace::Bucket& bucket : trace.buckets)
    events.bar(rank, kFirstLane + static_cast<uint64_t>(bucket.lane), bucket.op, bucket.begun,
               bucket.ended,
               fmt::format(R"({{"plan":{},"bytes":{},"tensors":{},"by":{}}})", bucket.plan,
                           bucket.bytes, bucket.tensors, as_json(bucket.by)));
  for (const Trace::Range& wait : trace.waits)
    events.bar(rank, kWaits, wait.name, wait.begin, wait.end);
  for (const Trace::Range& range : trace.ranges)
    events.bar(rank, kRanges, range.name, range.begin, range.end);
}

/// The last submit of a bucket's tensors on one rank.
struct Last {
  Rank rank = 0;
  uint64_t tensor = 0;
  int64_t at = 0;
};

void write_arrows(Events& events, const std::vector<Trace>& traces) {
  std::unordered_map<uint64_t, Last> last;  // by plan
  for (const Trace& trace : traces)
    for (const Trace::Life& life : trace.lives) {
      Last& known = last[life.plan];
      if (life.plan != 0 && life.submitted > known.at)
        known = {trace.rank, life.tensor, life.submitted};
    }
  for (const Trace& trace : traces)
    for (const Trace::Bucket& bucket : trace.buckets) {
      const auto found = last.find(bucket.plan);
      if (found == last.end() || found->second.rank == trace.rank || found->second.at == 0)
        continue;
      const std::string id = fmt::format("{}.{}", bucket.plan, trace.rank);
      events.arrow(false, found->second.rank, found->second.tensor, found->second.at, id);
      events.arrow(true, trace.rank, kFirstLane + static_cast<uint64_t>(bucket.lane),
                   std::max(bucket.begun, found->second.at), id);
    }
}

}  // namespace

std::string merged_trace(const std::vector<Trace>& traces) {
  Events events;
  for (const Trace& trace : traces) write_trace(events, trace);
  write_arrows(events, traces);
  return std::move(events).text();
}

}  // namespace hora
