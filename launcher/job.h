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
  int host = -1;  ///< an index in JobPlan::hosts, where `program` and more of `environment` are
                  ///< found; -1: this machine
};

/// What the ranks of other hosts need besides.
struct RemotePlan {
  std::string folder;   ///< their working directory
  std::string store;    ///< "tcp://...", which they reach us at; empty: none
  std::string records;  ///< where their flight records go after a failure; empty: not wanted
  std::chrono::milliseconds start_timeout{};  ///< for all hosts to be ready
};

struct JobPlan {
  std::vector<RankCommand> ranks;  ///< elastic: one, for all; gets HORA_WORKER
  std::optional<ElasticPlan> elastic;
  std::vector<RemoteHost::Route> hosts;
  RemotePlan remote;
  bool prefix = true;                 ///< "[rank] " before each line
  std::chrono::milliseconds grace{};  ///< for the others to end by themselves when one has failed
};

/// Starts the ranks, here and through agents on other hosts, and supervises them until all have
/// ended, then kills what they left behind. A host that cannot be reached is told before any rank
/// starts; one that is lost later is a failure of its ranks.
/// Runs in the child of run_guarded(). Returns the exit code: 0 if all ranks ended well; 128 +
/// signal if one stopped the job; else that of the first rank that failed, whose last lines of
/// stderr are repeated at the end. `asks` and `store` are for elastic jobs, in which a rank that
/// fails does not end the job as long as enough others go on.
int run_job(const JobPlan& plan, const Clock& clock, Asks* asks = nullptr,
            std::shared_ptr<Store> store = nullptr);

}  // namespace hora
