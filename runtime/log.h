#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "hora/config.h"

namespace hora {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarning, kError, kOff };

/// As HORA_LOG_LEVEL spells it; kWarning for anything else.
LogLevel log_level_of(std::string_view name);

/// Writes lines for people to stderr: "[hora rank 3] warning: ...". A small value, copied to
/// whoever has something to say. One write(2) for each message, so that lines of several processes
/// do not mix. What a level leaves out is not formatted.
///
/// Threads: any.
class Log {
 public:
  Log(std::string label, LogLevel level, int descriptor = 2)
      : label_(std::move(label)), level_(level), descriptor_(descriptor) {}
  explicit Log(const Config& config);

  bool enabled(LogLevel level) const { return level >= level_ && level_ != LogLevel::kOff; }

  template <class... Args>
  void trace(fmt::format_string<Args...> format, Args&&... args) const {
    say(LogLevel::kTrace, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) const {
    say(LogLevel::kDebug, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    say(LogLevel::kInfo, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    say(LogLevel::kWarning, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) const {
    say(LogLevel::kError, format, fmt::make_format_args(args...));
  }

 private:
  void say(LogLevel level, fmt::string_view format, fmt::format_args args) const;

  std::string label_;
  LogLevel level_;
  int descriptor_;
};

}  // namespace hora
