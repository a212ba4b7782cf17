#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/request.h"

namespace hora {

/// One process of the job.
struct Member {
  uint64_t id = 0;   ///< stable when ranks are renumbered
  std::string host;  ///< a label to show; ranks are local to each other by test, not by name
  int32_t pid = 0;
};

/// Who takes part, for one epoch. Immutable: a change of membership is a new World.
struct World {
  uint32_t epoch = 1;
  Rank rank = 0;
  std::vector<Member> members;  ///< by rank

  int size() const { return static_cast<int>(members.size()); }
  int local_rank = 0, local_size = 1;  ///< among the ranks of this host
  int cross_rank = 0, cross_size = 1;  ///< this host among the hosts
};

}  // namespace hora
