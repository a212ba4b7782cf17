#pragma once

#include <string>
#include <vector>

#include "launcher/run.h"

namespace CLI {
class App;
}

namespace hora {

/// The flags of jobs on several hosts.
class HostOptions {
 public:
  void add_to(CLI::App& app, RunOptions& options);
  /// Completes `options`: the hosts, and without -np a rank in each slot. Says what is wrong; empty
  /// if nothing is.
  std::string check(const CLI::App& app, RunOptions& options) const;

 private:
  std::string hosts_, file_;
};

/// `environment` for another machine: without what describes this one, or the login here (HOME,
/// SSH_AUTH_SOCK, TERM).
std::vector<std::string> portable(const std::vector<std::string>& environment);

/// 256 random bits as hexadecimal digits, for HORA_SECRET. Errors: kUnavailable: the system has
/// none.
Result<std::string> random_secret();

}  // namespace hora
