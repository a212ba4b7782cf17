#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "hora/status.h"
#include "launcher/hosts.h"
#include "ops/descriptor.h"
#include "runtime/clock.h"

namespace hora {

/// Runs a discovery script again and again, one at a time, without ever waiting for it.
///
/// Threads: one. Reports, once each: the hosts, or why the script could not tell.
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
  std::optional<Result<std::vector<Host>>> take();

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
  std::optional<Result<std::vector<Host>>> found_;
};

}  // namespace hora
