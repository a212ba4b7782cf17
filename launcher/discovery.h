#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include "hora/status.h"
#include "ops/descriptor.h"
#include "runtime/clock.h"

namespace hora {

/// How many slots a discovery script's output gives this host: lines "host:slots", or "host", which
/// has `slots_per_host`. Nothing printed is no slot. Errors: kInvalidArgument: a line that is none
/// of these, or another host, since jobs run on one host.
Result<int> parse_slots(std::string_view text, int slots_per_host);

/// Runs a discovery script again and again, one at a time, without ever waiting for it.
///
/// Threads: one. Reports, once each: a number of slots, or why the script could not tell.
class Discovery {
 public:
  struct Options {
    std::string script;  ///< a command for /bin/sh
    int slots_per_host = 1;
    std::chrono::milliseconds period{1000}, limit{30'000};  ///< between runs; for one
  };

  Discovery(Options options, const Clock& clock);
  ~Discovery();
  Discovery(const Discovery&) = delete;
  Discovery& operator=(const Discovery&) = delete;

  int descriptor() const { return pipe_.get(); }  ///< poll it to read; -1: nothing to read now
  int64_t wake_at() const { return wake_at_; }    ///< call attend() at this time
  /// Starts the script, reads what it has printed, or ends it when it takes too long.
  void attend();
  /// A child of this process has ended and was reaped. False if it is not the script.
  bool ended(pid_t pid, int wait_status);
  /// What the last run that has ended said, if it was not taken yet.
  std::optional<Result<int>> take();

 private:
  void start();
  void read();

  const Options options_;
  const Clock& clock_;
  Descriptor pipe_;
  pid_t pid_ = -1;
  std::string output_;
  bool too_slow_ = false;
  int64_t wake_at_ = 0;
  std::optional<Result<int>> found_;
};

}  // namespace hora
