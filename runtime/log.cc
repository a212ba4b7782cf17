#include "runtime/log.h"

#include <unistd.h>

#include <array>
#include <iterator>

namespace hora {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"trace",   "debug", "info",
                                                    "warning", "error", "off"};

}  // namespace

LogLevel log_level_of(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<LogLevel>(i);
  return LogLevel::kWarning;
}

Log::Log(const Config& config)
    : Log(fmt::format("hora rank {}", config.rank), log_level_of(config.log_level)) {}

void Log::say(LogLevel level, fmt::string_view format, fmt::format_args args) const {
  if (!enabled(level)) return;
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "[{}] {}: ", label_, kNames[static_cast<size_t>(level)]);
  fmt::vformat_to(std::back_inserter(line), format, args);
  line.push_back('\n');
  // Nobody is left to tell when stderr is gone.
  [[maybe_unused]] const auto written = ::write(descriptor_, line.data(), line.size());
}

}  // namespace hora
