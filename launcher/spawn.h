#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "hora/status.h"
#include "ops/descriptor.h"

namespace hora {

/// A process that this one has started, in a group of its own; killed when this one dies.
struct Spawned {
  pid_t pid = -1;
  Descriptor out, err;  ///< to read what it prints; non-blocking
};

/// Starts `program` (a path), with `in` as its stdin and no other descriptor of ours. `arguments`
/// begin with its name; `environment` is all of it. Errors: kUnavailable: no more processes or
/// descriptors. That the program cannot be executed is told on its own stderr, with exit code 126.
Result<Spawned> spawn(const std::string& program, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment, const Descriptor& in);

/// "exited with code 1", "was killed by signal 9 (Killed)".
std::string describe_end(int wait_status);

}  // namespace hora
