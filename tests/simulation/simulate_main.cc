// hora_simulate SEED_FROM SEED_TO [RANKS]: random programs, trees, options and faults by seed.
// Prints the first failures, each to be replayed by its seed alone, and totals. With RANKS: that
// many, eight to a host, in a tree of arity eight.
#include <chrono>
#include <cstdlib>

#include <fmt/format.h>

#include "tests/simulation/simulation.h"

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
    const hora::Report report = hora::Simulation(settings).run();
    sum.add(report);
    faulty += report.faults > 0;
    if (!report.failure.empty() && ++failures <= 10)
      fmt::print("seed {} ({} ranks): {}\n", seed, settings.ranks, report.failure);
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  fmt::print(
      "seeds {} failures {} faulty {} steps {} frames {} bytes {} plans {} stable {} handles {} "
      "errors {} "
      "stalls {} asks {}; {:.1f} s, {:.0f} steps/s, {:.0f} seeds/s\n",
      to - from, failures, faulty, sum.steps, sum.messages, sum.bytes, sum.plans, sum.stable_plans,
      sum.handles, sum.errors, sum.stalls, sum.asks, wall.count(),
      static_cast<double>(sum.steps) / wall.count(), static_cast<double>(to - from) / wall.count());
  return failures != 0;
}
