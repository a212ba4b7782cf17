#pragma once

#include <span>
#include <vector>

#include "hora/request.h"

namespace hora::hierarchical {

/// How the members of a process set lie on hosts, as one of them sees it. Hosts are numbered in the
/// order of their first member. Member i of a host is in *column* i; there are as many columns as
/// the host with the fewest members has, and only their members speak with other hosts.
struct Layout {
  int me = -1;  ///< this rank's number in the set; -1: no member
  size_t hosts = 0, columns = 0;
  size_t local_index = 0;                    ///< this rank among its host's members
  std::vector<Rank> local;                   ///< the members on this host
  std::vector<Rank> column;                  ///< this rank's column, by host; empty: it is in none
  std::vector<size_t> host_of;               ///< of each member
  std::vector<size_t> local_of;              ///< each member's index on its host
  std::vector<std::vector<size_t>> members;  ///< of each host

  static Layout of(std::span<const Rank> ranks, std::span<const int> hosts, Rank rank);
};

}  // namespace hora::hierarchical
