// hora_simulate SEED_FROM SEED_TO [RANKS]: random programs, trees, options and faults by seed.
// Prints the first failures, each to be replayed by its seed alone, and totals. With RANKS: that
// many, eight to a host, in a tree of arity eight.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include <fmt/format.h>

#include "tests/simulation/simulation.h"

namespace {

double milliseconds_at(std::vector<hora::Time>& times, double fraction) {
  if (times.empty()) return 0;
  const auto at = static_cast<size_t>(static_cast<double>(times.size() - 1) * fraction);
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(at), times.end());
  return static_cast<double>(times[at]) * 1e-6;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: hora_simulate SEED_FROM SEED_TO [RANKS]\n");
    return 2;
  }
  const uint64_t from = std::strtoull(argv[1], nullptr, 10),
                 to = std::strtoull(argv[2], nullptr, 10);
  hora::Report sum;
  uint64_t failures = 0, faulty = 0;
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t seed = from; seed < to; ++seed) {
    hora::Settings settings = hora::random_settings(seed);
    if (argc > 3) hora::on_hosts_of_eight(settings, std::atoi(argv[3]));
    hora::Report report = hora::simulate(settings);
    faulty += report.faults > 0;
    if (!report.failure.empty() && ++failures <= 10)
      fmt::print("seed {} ({} ranks, fault {}): {}\n", seed, settings.ranks,
                 static_cast<int>(settings.fault), report.failure);
    sum.add(report);
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  const auto seeds = static_cast<double>(to - from);
  fmt::print("seeds {} failures {} faulty {} epochs {} steps {} frames {} bytes {}\n", to - from,
             failures, faulty, sum.epochs, sum.steps, sum.messages, sum.bytes);
  fmt::print("plans {} stable {} handles {} unnamed {} errors {} stalls {} asks {} strangers {}\n",
             sum.plans, sum.stable_plans, sum.handles, sum.unnamed, sum.errors, sum.stalls,
             sum.asks, sum.strangers);
  fmt::print("carried {} of them ahead of the log {}\n", sum.carried, sum.ahead);
  fmt::print("faults {} aborts {}; virtual time to notice: p50 {:.2f} ms, p99 {:.2f} ms\n",
             sum.faults, sum.aborts, milliseconds_at(sum.detections, 0.5),
             milliseconds_at(sum.detections, 0.99));
  fmt::print("{:.1f} s, {:.0f} steps/s, {:.0f} seeds a minute\n", wall.count(),
             static_cast<double>(sum.steps) / wall.count(), 60 * seeds / wall.count());
  return failures != 0;
}
