#include "launcher/flag_advice.h"

#include <vector>

#include <fmt/format.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

struct Advice {
  std::string_view flag, text;
};

/// Flags of horovodrun that are named otherwise here, or that nothing corresponds to.
constexpr Advice kHorovods[] = {
    {"--fusion-threshold-mb", "give --bucket-bytes, such as --bucket-bytes 64MiB"},
    {"--cycle-time-ms", "leave it out: no timer decides when tensors travel"},
    {"--disable-cache", "leave it out: there is always a cache (--cache-capacity)"},
    {"--timeline-filename", "give --timeline"},
    {"--gloo-timeout-seconds", "give --failure-timeout"},
    {"--stall-check-warning-time-seconds", "give --stall-warning"},
    {"--stall-check-shutdown-time-seconds", "give --stall-abort"},
    {"--no-stall-check", "give --stall-warning 0"},
    {"--stall-check", "leave it out: it is on (--stall-warning)"},
    {"--gloo", "give --backend gloo"},
    {"--mpi", "leave it out; `mpirun -np N python train.py` works too"},
    {"--verbose", "give --log-level info"},
    {"-v", "give --log-level info"},
    {"-H", "all ranks run on this host: give -np alone"},
    {"--hosts", "all ranks run on this host: give -np alone"},
    {"-hostfile", "all ranks run on this host: give -np alone"},
    {"--hostfile", "all ranks run on this host: give -np alone"},
    {"--network-interface", "leave it out: ranks of one host need no network"},
    {"--network-interfaces", "leave it out: ranks of one host need no network"},
    {"--autotune", "leave it out: the defaults were measured (`hora settings`)"},
    {"--log-with-timestamp", "leave it out: --output-dir keeps the output as it is"},
    {"--prefix-timestamp", "leave it out: --output-dir keeps the output as it is"},
};

}  // namespace

std::string flag_advice(std::string_view flag, std::span<const std::string> known) {
  const std::string_view name = flag.substr(0, flag.find('='));
  for (const Advice& advice : kHorovods)
    if (advice.flag == name) return fmt::format("{} is horovodrun's: {}", name, advice.text);
  const std::vector<std::string_view> names(known.begin(), known.end());
  const std::string_view meant = nearest(name, names);
  return fmt::format("{}: no such option{}", name,
                     meant.empty() ? "" : fmt::format("; did you mean {}?", meant));
}

}  // namespace hora
