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
    {"--network-interface", "leave it out: interfaces are found by connecting"},
    {"--network-interfaces", "leave it out: interfaces are found by connecting"},
    {"--autotune", "leave it out: the defaults were measured (`hora settings`)"},
    {"-p", "give --rsh 'ssh -p PORT'"},
    {"--ssh-port", "give --rsh 'ssh -p PORT'"},
    {"-i", "give --rsh 'ssh -i FILE'"},
    {"--ssh-identity-file", "give --rsh 'ssh -i FILE'"},
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
