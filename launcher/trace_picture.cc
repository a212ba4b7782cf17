#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "launcher/trace.h"

namespace hora {
namespace {

// Pixels.
constexpr int kWidth = 960, kLeft = 110, kRight = 20, kTop = 56, kRow = 22, kHead = 16, kGap = 10;
constexpr int kTicks = 8;
constexpr size_t kBuckets = 12;  // that the picture shows, from the middle of the run

constexpr std::string_view kNegotiating = "#f2b134", kQueued = "#b9c0c8", kMoving = "#2a7f9e",
                           kWaiting = "#d1495b", kProgram = "#7fb77e";

struct Window {
  int64_t from = 0, to = 1;
};

/// The middle of the run: neither its start nor its end, where everything is new.
Window middle(const Trace& trace) {
  const auto& buckets = trace.buckets;
  if (buckets.empty()) return {};
  const size_t count = std::min(kBuckets, buckets.size()), first = (buckets.size() - count) / 2;
  Window window{INT64_MAX, 0};
  for (size_t i = first; i < first + count; ++i) {
    window.from = std::min(window.from, buckets[i].begun - buckets[i].queued);
    window.to = std::max(window.to, buckets[i].ended);
  }
  const int64_t margin = (window.to - window.from) / 20 + 1;
  return {window.from - margin, window.to + margin};
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '<')
      result += "&lt;";
    else if (c == '&')
      result += "&amp;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      result += c;
  }
  return result;
}

class Picture {
 public:
  explicit Picture(const Window& window) : window_(window) {}

  void label(double x, double y, std::string_view text, std::string_view anchor = "start",
             std::string_view weight = "normal") {
    fmt::format_to(out(),
                   "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-weight=\"{}\">{}"
                   "</text>\n",
                   x, y, anchor, weight, escaped(text));
  }
  void box(double x, double y, double width, double height, std::string_view color,
           std::string_view title) {
    fmt::format_to(out(),
                   "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" "
                   "fill=\"{}\"><title>{}</title></rect>\n",
                   x, y, width, height, color, escaped(title));
  }
  void bar(int row, int64_t from, int64_t to, std::string_view color, std::string_view title,
           double part = 1) {
    const double microseconds = static_cast<double>(to - from) * 1e-3;
    from = std::max(from, window_.from), to = std::min(to, window_.to);
    if (from >= to) return;
    const double x = x_of(from);
    box(x, y_of(row), std::max(x_of(to) - x, 0.6), (kRow - 4) * part, color,
        fmt::format("{}: {:.1f} us", title, microseconds));
  }
  void ticks(int rows) {
    for (int i = 0; i <= kTicks; ++i) {
      const int64_t at = window_.from + (window_.to - window_.from) * i / kTicks;
      fmt::format_to(out(),
                     "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" "
                     "stroke=\"#dddddd\"/>\n",
                     x_of(at), kTop - 4, y_of(rows));
      label(x_of(at), y_of(rows) + 14,
            fmt::format("{:.2f}{}", static_cast<double>(at - window_.from) * 1e-6,
                        i == kTicks ? " ms" : ""),
            i == kTicks ? "end" : "middle");
    }
  }
  void legend() {
    double x = kLeft;
    for (const auto& [name, color] : std::array<std::pair<std::string_view, std::string_view>, 5>{
             {{"negotiating", kNegotiating},
              {"queued", kQueued},
              {"moving", kMoving},
              {"a caller waits", kWaiting},
              {"marked by the program", kProgram}}}) {
      box(x, 22, 12, 12, color, name);
      label(x + 17, 32, name);
      x += 40 + 7.5 * static_cast<double>(name.size());
    }
  }
  void begin_rank(int row, const Trace& trace) {
    label(8, y_of(row) + 10, fmt::format("rank {}", trace.rank), "start", "bold");
    offset_ += kHead;
  }
  void end_rank() { offset_ += kGap; }
  double y_of(int row) const { return kTop + row * kRow + offset_; }

  std::string text(int rows) && {
    const auto height = static_cast<int>(y_of(rows)) + 24;
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n{2}</svg>\n",
        kWidth, height, body_);
  }

 private:
  std::back_insert_iterator<std::string> out() { return std::back_inserter(body_); }
  double x_of(int64_t at) const {
    return kLeft + static_cast<double>(at - window_.from) * (kWidth - kLeft - kRight) /
                       static_cast<double>(window_.to - window_.from);
  }
  const Window window_;
  std::string body_;
  int offset_ = 0;
};

/// From when to when some tensor waited for another rank, without overlaps.
std::vector<std::pair<int64_t, int64_t>> negotiations(const Trace& trace) {
  std::vector<std::pair<int64_t, int64_t>> all, united;
  for (const Trace::Life& life : trace.lives)
    if (life.agreed != 0) all.emplace_back(life.taken, life.agreed);
  std::sort(all.begin(), all.end());
  for (const auto& [begin, end] : all)
    if (!united.empty() && begin <= united.back().second)
      united.back().second = std::max(united.back().second, end);
    else
      united.emplace_back(begin, end);
  return united;
}

int draw_rank(Picture& picture, const Trace& trace, int row) {
  const auto name = [&](std::string_view what) {
    picture.label(kLeft - 8, picture.y_of(row) + 13, what, "end");
  };
  picture.begin_rank(row, trace);
  if (!trace.ranges.empty()) {
    name("program");
    for (const auto& range : trace.ranges)
      picture.bar(row, range.begin, range.end, kProgram, range.name);
    ++row;
  }
  name("waits");
  for (const auto& wait : trace.waits) picture.bar(row, wait.begin, wait.end, kWaiting, wait.name);
  ++row;
  name("negotiating");
  for (const auto& [begin, end] : negotiations(trace))
    picture.bar(row, begin, end, kNegotiating, "negotiating");
  ++row;
  std::map<int, std::vector<const Trace::Bucket*>> lanes;
  for (const auto& bucket : trace.buckets) lanes[bucket.lane].push_back(&bucket);
  for (const auto& [lane, buckets] : lanes) {
    name(fmt::format("lane {}", lane));
    for (const auto* bucket : buckets) {
      picture.bar(row, bucket->begun - bucket->queued, bucket->begun, kQueued, "queued", 0.4);
      picture.bar(row, bucket->begun, bucket->ended, kMoving,
                  fmt::format("{} of {} bytes, {} tensors, {}", bucket->op, bucket->bytes,
                              bucket->tensors, bucket->by));
    }
    ++row;
  }
  picture.end_rank();
  return row;
}

}  // namespace

std::string trace_picture(const std::vector<Trace>& traces) {
  const Window window = traces.empty() ? Window() : middle(traces[0]);
  Picture picture(window);
  picture.legend();
  int row = 0;
  for (const Trace& trace : traces) row = draw_rank(picture, trace, row);
  picture.ticks(row);
  return std::move(picture).text(row);
}

}  // namespace hora
