#pragma once

#include <string>
#include <vector>

#include "runtime/clock.h"

namespace hora {

/// What one rank executes. `environment` is all of it, NAME=VALUE.
struct RankCommand {
  std::string program;                 ///< a path
  std::vector<std::string> arguments;  ///< from argv[0]
  std::vector<std::string> environment;
};

struct JobPlan {
  std::vector<RankCommand> ranks;
  bool prefix = true;                 ///< "[rank] " before each line
  std::chrono::milliseconds grace{};  ///< for the others to end by themselves when one has failed
};

/// Starts the ranks and supervises them until all have ended, then kills what they left behind.
/// Runs in the child of run_guarded(). Returns the exit code: 0 if all ranks ended well; 128 +
/// signal if one stopped the job; else that of the first rank that failed, whose last lines of
/// stderr are repeated at the end.
int run_job(const JobPlan& plan, const Clock& clock);

}  // namespace hora
