#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"

namespace hora {

/// Looks up a variable of the environment; null: it is not set, or empty.
using Lookup = std::function<const std::string*(std::string_view name)>;

/// How ranks that another launcher started (torchrun, mpirun, srun) find each other: rank 0 serves
/// a store, at a place that follows from whatever tells this job from others.
struct ForeignJob {
  std::string origin;  ///< the variable that tells the job, for messages; empty: none does
  std::string job;     ///< its name
  std::string store;   ///< where rank 0 serves: "unix:@name", "tcp://host:port"
};

/// `several`: the ranks are on more than one host. `parent`: this process's; 0 if unknown. A place
/// that HORA_STORE gives is taken. Without any variable that tells the job the result is empty.
/// Errors: kInvalidArgument: what ranks of several hosts need and do not have, and what to do.
Result<ForeignJob> find_foreign_job(const Lookup& given, bool several, int parent);

/// The hosts of a step of Slurm.
struct SlurmHosts {
  std::vector<int> tasks;  ///< of each host; empty if that is not told
  int count = 1, mine = 0;
};
SlurmHosts find_slurm_hosts(const Lookup& given);

/// The first of a list such as "gpu[03-06,9],login1": "gpu03".
std::string first_slurm_host(std::string_view list);

}  // namespace hora
