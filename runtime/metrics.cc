#include "runtime/metrics.h"

#include <iterator>
#include <string_view>

#include <fmt/format.h>

namespace hora {
namespace {

constexpr double kSeconds = 1e-9;  ///< of a nanosecond

class Page {
 public:
  explicit Page(Rank rank) : rank_(rank) {}

  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    fmt::format_to(out(), "# HELP hora_{0} {2}\n# TYPE hora_{0} {1}\n", name, type, help);
  }
  void counter(std::string_view name, std::string_view help, uint64_t value) {
    family(name, "counter", help);
    sample("", "", static_cast<double>(value));
  }
  /// `labels` are written as they are, each with a comma behind.
  void sample(std::string_view suffix, std::string_view labels, double value) {
    fmt::format_to(out(), "hora_{}{}{{{}rank=\"{}\"}} {:.15g}\n", name_, suffix, labels, rank_,
                   value);
  }
  void histogram(const Histogram& histogram, std::string_view labels, double unit) {
    uint64_t below = 0;
    for (size_t i = 0; i + 1 < Histogram::kBuckets; ++i) {
      below += histogram.buckets[i];
      // The values are whole numbers: those below 2^i are at most 2^i - 1.
      const double limit = static_cast<double>((uint64_t{1} << i) - 1) * unit;
      sample("_bucket", fmt::format("{}le=\"{:.9g}\",", labels, limit), static_cast<double>(below));
    }
    const auto count = static_cast<double>(histogram.count);
    sample("_bucket", fmt::format("{}le=\"+Inf\",", labels), count);
    sample("_sum", labels, static_cast<double>(histogram.sum) * unit);
    sample("_count", labels, count);
  }
  std::string text() && { return std::move(text_); }

 private:
  std::back_insert_iterator<std::string> out() { return std::back_inserter(text_); }

  const Rank rank_;
  std::string_view name_;
  std::string text_;
};

}  // namespace

std::string_view name_of(Phase phase) {
  constexpr std::array<std::string_view, kPhases> kNames = {"submitted", "negotiating", "queued",
                                                            "moving", "total"};
  return kNames[static_cast<size_t>(phase)];
}

Histogram Distribution::snapshot() const {
  Histogram histogram;
  histogram.sum = sum_.value();
  for (size_t i = 0; i < Histogram::kBuckets; ++i)
    histogram.count += histogram.buckets[i] = buckets_[i].value();
  return histogram;
}

Counters Metrics::snapshot() const {
  Counters now;
  now.requests = requests.value();
  now.errors = errors.value();
  now.buckets = buckets.value();
  now.bytes = bytes.value();
  now.wire_bytes = wire_bytes.value();
  now.control_bytes = control_bytes.value();
  now.compressed_bytes = compressed_bytes.value();
  now.compressed_wire_bytes = compressed_wire_bytes.value();
  for (size_t i = 0; i < kOps; ++i) now.operations[i] = operations[i].value();
  for (size_t i = 0; i < kPhases; ++i) now.phases[i] = phases[i].snapshot();
  now.bucket_bytes = bucket_bytes.snapshot();
  now.bucket_tensors = bucket_tensors.snapshot();
  now.waits = waits.snapshot();
  return now;
}

std::string metrics_text(const Counters& counters, Rank rank) {
  Page page(rank);
  page.counter("requests_total", "Operations that ended, well or not.", counters.requests);
  page.counter("errors_total", "Operations that ended with an error.", counters.errors);
  page.family("operations_total", "counter", "Operations that ended, by kind.");
  for (size_t i = 0; i < kOps; ++i)
    page.sample("", fmt::format("op=\"{}\",", name_of(static_cast<Op>(i))),
                static_cast<double>(counters.operations[i]));
  page.counter("buckets_total", "Collectives run.", counters.buckets);
  page.counter("bytes_total", "Bytes of tensors in them, before compression.", counters.bytes);
  page.counter("wire_bytes_total", "Bytes sent to other ranks for them.", counters.wire_bytes);
  page.counter("control_bytes_total", "Bytes sent to agree on them.", counters.control_bytes);
  page.counter("compressed_bytes_total",
               "Bytes that compressed tensors would have sent as they are.",
               counters.compressed_bytes);
  page.counter("compressed_wire_bytes_total", "Bytes that compressed tensors sent.",
               counters.compressed_wire_bytes);
  page.counter("timeline_dropped_total", "Moments that a timeline had no room for.",
               counters.timeline_dropped);
  page.family("phase_seconds", "histogram", "Time in each phase of an operation.");
  for (size_t i = 0; i < kPhases; ++i)
    page.histogram(counters.phases[i], fmt::format("phase=\"{}\",", name_of(static_cast<Phase>(i))),
                   kSeconds);
  page.family("wait_seconds", "histogram", "Time a caller waited for an operation to end.");
  page.histogram(counters.waits, "", kSeconds);
  page.family("bucket_bytes", "histogram", "Bytes that travel together.");
  page.histogram(counters.bucket_bytes, "", 1);
  page.family("bucket_tensors", "histogram", "Tensors that travel together.");
  page.histogram(counters.bucket_tensors, "", 1);
  return std::move(page).text();
}

}  // namespace hora
