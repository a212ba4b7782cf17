#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"

namespace hora {

/// A machine that ranks may run on.
struct Host {
  std::string name;       ///< as ssh takes it: "node1", "user@node1", "10.0.0.1", "fd77::1"
  int slots = 1;          ///< ranks that it takes
  std::string addresses;  ///< where others reach it, commas between; empty: found by connecting

  bool operator==(const Host&) const = default;
};

/// "a:4,b:4"; without a number one slot; an IPv6 address stands in brackets. A host that is there
/// twice has the slots of both. Errors: kInvalidArgument says what is wrong and what was expected.
Result<std::vector<Host>> parse_hosts(std::string_view text);

/// A file of hosts in any of three languages, by its text; `path` is for messages, which name the
/// line:
///
///   a slots=4                      Horovod
///   a slots=4 max_slots=8          Open MPI; without slots= one slot, # begins a comment
///   [{"ssh": "a", "ips": [...]}]   MLX: one slot each; also {"hosts": [...]}
Result<std::vector<Host>> parse_hostfile(const std::string& path, std::string_view text);
/// kUnavailable: cannot be read.
Result<std::vector<Host>> read_hostfile(const std::string& path);

/// What a discovery script prints: lines "a:4", or "a", which has `slots_per_host`; with 0 slots a
/// host is as good as absent. Errors: kInvalidArgument: a line that is none of these.
Result<std::vector<Host>> parse_discovered(std::string_view text, int slots_per_host);

/// "a:4,b:4", for messages.
std::string to_text(std::span<const Host> hosts);

/// Where a rank runs. Ranks of one host have numbers in a row, and hosts come in their given order.
struct RankPlace {
  int host = 0;  ///< index
  int local_rank = 0, local_size = 1;
  int cross_rank = 0, cross_size = 1;  ///< among the ranks of this local_rank, one on each host

  bool operator==(const RankPlace&) const = default;
};

/// The places of `ranks` ranks, the first hosts filled first. Errors: kInvalidArgument: there are
/// fewer slots.
Result<std::vector<RankPlace>> place_ranks(std::span<const Host> hosts, int ranks);

/// Is that the machine we are on, as far as the name alone tells: "localhost", its own name, or
/// one of its addresses? Nobody is asked.
bool is_this_machine(const std::string& name);

}  // namespace hora
