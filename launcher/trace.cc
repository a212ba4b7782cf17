#include "launcher/trace.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launcher/json_fields.h"

namespace hora {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kFirstLane = 1, kWaits = 90, kRanges = 91, kFirstTensor = 100;

// Times that no run has are as good as not told, so that sums and differences of them fit.
constexpr double kLongest = 0x1p53;                  // ns from a trace's base: 104 days
constexpr uint64_t kLatestBase = uint64_t{1} << 58;  // ns of a clock that began with the machine
constexpr uint64_t kLatestUnix = uint64_t{1} << 61;  // ns: the year 2043

int64_t nanoseconds(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return 0;
  const double value = found->get<double>() * 1e3;
  return std::abs(value) < kLongest ? std::llround(value) : 0;
}
uint64_t number(const Json& object, const char* key) {
  return number_in<uint64_t>(object, key);
}

int64_t time_before(uint64_t end, const Json& object, const char* key) {
  const uint64_t time = number(object, key);
  return time < end ? static_cast<int64_t>(time) : 0;
}

class Reader {
 public:
  explicit Reader(Trace& trace) : trace_(trace) {}

  void read(const Json& event) {
    const std::string kind = text_in(event, "ph");
    const auto found = event.find("args");
    const Json args = found != event.end() && found->is_object() ? *found : Json::object();
    if (kind == "M") return describe(event, args);
    if (kind == "i" && text_in(event, "name").ends_with(" moments lost"))
      trace_.lost += std::strtoull(text_in(event, "name").c_str(), nullptr, 10);
    if (kind != "X") return;
    const uint64_t track = number(event, "tid");
    const int64_t at = trace_.base + nanoseconds(event, "ts");
    const int64_t end = at + nanoseconds(event, "dur");
    if (track == kWaits) trace_.waits.push_back({text_in(event, "name"), at, end});
    if (track == kRanges) trace_.ranges.push_back({text_in(event, "name"), at, end});
    if (track >= kFirstTensor) live(event, args, at, end);
    if (track >= kFirstLane && track < kWaits) bucket(event, args, at, end);
  }
  bool is_ours() const { return is_ours_; }

 private:
  void describe(const Json& event, const Json& args) {
    const std::string name = text_in(event, "name");
    if (name == "hora_clock") {
      is_ours_ = number(args, "version") == 1;
      trace_.job = text_in(args, "job");
      trace_.epoch = number(args, "epoch");
      trace_.rank = static_cast<Rank>(number(args, "rank"));
      trace_.size = static_cast<int>(number(args, "size"));
      trace_.host = text_in(args, "host");
      trace_.backend = text_in(args, "backend");
      trace_.base = time_before(kLatestBase, args, "base_ns");
      trace_.unix_ns = time_before(kLatestUnix, args, "unix_ns");
    }
    if (name == "hora_full") trace_.full = true;
    const uint64_t track = number(event, "tid");
    if (name == "thread_name" && track >= kFirstTensor)
      trace_.tensors[track] = text_in(args, "name");
  }

  void live(const Json& event, const Json& args, int64_t at, int64_t end) {
    Trace::Life& life = trace_.lives.emplace_back();
    const auto reached = [&](const char* key) {
      return args.contains(key) ? at + nanoseconds(args, key) : 0;
    };
    life.tensor = number(event, "tid");
    life.op = text_in(event, "name");
    life.error = text_in(args, "error");
    life.plan = number(args, "plan");
    life.submitted = at;
    life.taken = reached("taken");
    life.agreed = reached("agreed");
    life.begun = reached("begun");
    life.moved = reached("moved");
    life.done = end;
  }

  void bucket(const Json& event, const Json& args, int64_t at, int64_t end) {
    trace_.buckets.push_back({number(args, "plan"), number(args, "bytes"), number(args, "tensors"),
                              static_cast<int>(number(event, "tid") - kFirstLane),
                              text_in(event, "name"), text_in(args, "by"), text_in(args, "error"),
                              at, end, nanoseconds(args, "queued")});
  }

  Trace& trace_;
  bool is_ours_ = false;
};

}  // namespace

// Line by line: a file may be long, and may end in the middle of a line while a rank writes.
Result<Trace> parse_trace(std::string_view all, const std::string& path) {
  Trace trace;
  trace.path = path;
  Reader reader(trace);
  for (size_t line = 1; !all.empty(); ++line) {
    const size_t length = std::min(all.find('\n'), all.size());
    const bool whole = length < all.size();
    std::string_view words = all.substr(0, length);
    all.remove_prefix(std::min(length + 1, all.size()));
    if (words.ends_with(',')) words.remove_suffix(1);
    if (words.empty() || words == "[" || words == "]") continue;
    const Json event = Json::parse(words, nullptr, false);
    if (!event.is_object()) {
      if (!whole) break;
      return Status(
          Code::kInvalidArgument,
          fmt::format("{}:{}: expected one event of a timeline of Hora in each line", path, line));
    }
    reader.read(event);
  }
  if (!reader.is_ours())
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: no timeline of Hora: it has no hora_clock of version 1; give "
                              "files that HORA_TIMELINE or start_timeline() made",
                              path));
  return trace;
}

Result<Trace> read_trace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  if (file) all << file.rdbuf();
  if (!file) return Status(Code::kInvalidArgument, fmt::format("{}: cannot read this file", path));
  return parse_trace(all.str(), path);
}

}  // namespace hora
