#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/elastic.h"
#include "runtime/clock.h"

namespace hora {

/// What one rank executes. `environment` is all of it, NAME=VALUE.
struct RankCommand {
  std::string program;                 ///< a path
  std::vector<std::string> arguments;  ///< from argv[0]
  std::vector<std::string> environment;
  std::string output;  ///< a folder for files stdout and stderr; empty: lines join ours
};

struct JobPlan {
  std::vector<RankCommand> ranks;  ///< elastic: one, for all; gets HORA_WORKER
  std::optional<ElasticPlan> elastic;
  bool prefix = true;                 ///< "[rank] " before each line
  std::chrono::milliseconds grace{};  ///< for the others to end by themselves when one has failed
};

/// Starts the ranks and supervises them until all have ended, then kills what they left behind.
/// Runs in the child of run_guarded(). Returns the exit code: 0 if all ranks ended well; 128 +
/// signal if one stopped the job; else that of the first rank that failed, whose last lines of
/// stderr are repeated at the end. `asks` and `store` are for elastic jobs, in which a rank that
/// fails does not end the job as long as enough others go on.
int run_job(const JobPlan& plan, const Clock& clock, Asks* asks = nullptr,
            std::shared_ptr<Store> store = nullptr);

}  // namespace hora
