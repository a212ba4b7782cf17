#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/elastic.h"
#include "launcher/remote_host.h"
#include "runtime/clock.h"

namespace hora {

/// What one rank executes. `environment` is all of it, NAME=VALUE.
struct RankCommand {
  std::string program;                 ///< a path
  std::vector<std::string> arguments;  ///< from argv[0]
  std::vector<std::string> environment;
  std::string output;  ///< a folder for files stdout and stderr; empty: lines join ours
  std::string host;    ///< where `program` and more of `environment` are found; empty: here
};

/// What the ranks of other hosts need besides.
struct RemotePlan {
  RemoteHost::Route route;  ///< to all of them, but for the name
  std::string folder;       ///< their working directory
  std::string store;        ///< "tcp://...", which they reach us at; empty: none
  std::string records;      ///< where their flight records go after a failure; empty: not wanted
  std::chrono::milliseconds start_timeout{};  ///< for a host to be ready
};

struct JobPlan {
  /// Elastic: one for all ranks here, and if there may be other hosts one for all ranks there. They
  /// get HORA_WORKER besides.
  std::vector<RankCommand> ranks;
  std::optional<ElasticPlan> elastic;
  RemotePlan remote;
  bool prefix = true;                 ///< "[rank] " before each line
  std::chrono::milliseconds grace{};  ///< for the others to end by themselves when one has failed
};

/// Starts the ranks, here and through agents on other hosts, and supervises them until all have
/// ended, then kills what they left behind. A host that cannot be reached is told before any rank
/// starts; one that is lost later is a failure of its ranks. In an elastic job both are failures of
/// ranks, and a host's agent starts when it is to have the first one.
/// Runs in the child of run_guarded(). Returns the exit code: 0 if all ranks ended well; 128 +
/// signal if one stopped the job; else that of the first rank that failed, whose last lines of
/// stderr are repeated at the end. `asks` and `store` are for elastic jobs, in which a rank that
/// fails does not end the job as long as enough others go on.
int run_job(const JobPlan& plan, const Clock& clock, Asks* asks = nullptr,
            std::shared_ptr<Store> store = nullptr);

}  // namespace hora
