#pragma once

#include <string>

namespace hora {

/// How many processors this process may keep busy: its affinity mask, less if a cgroup's CPU quota
/// (version 2, version 1, any level up to the root) allows fewer. At least 1. `root` is where /proc
/// and /sys are found.
int allowed_cores(const std::string& root = "");

/// The quota alone, in whole processors rounded up; 0: none.
int quota_cores(const std::string& root);

}  // namespace hora
