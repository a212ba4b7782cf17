#include "ops/hierarchical/layout.h"

#include <algorithm>

namespace hora::hierarchical {

Layout Layout::of(std::span<const Rank> ranks, std::span<const int> hosts, Rank rank) {
  Layout layout;
  std::vector<int> seen;  // hosts, in order
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int host = hosts[static_cast<size_t>(ranks[i])];
    const auto at = static_cast<size_t>(std::find(seen.begin(), seen.end(), host) - seen.begin());
    if (at == seen.size()) {
      seen.push_back(host);
      layout.members.emplace_back();
    }
    if (ranks[i] == rank) layout.me = static_cast<int>(i);
    layout.host_of.push_back(at);
    layout.local_of.push_back(layout.members[at].size());
    layout.members[at].push_back(i);
  }
  layout.hosts = seen.size();
  if (layout.me < 0) return layout;
  const auto me = static_cast<size_t>(layout.me);
  const auto& mates = layout.members[layout.host_of[me]];
  for (const size_t mate : mates) layout.local.push_back(ranks[mate]);
  layout.local_index = layout.local_of[me];
  layout.columns = mates.size();
  for (const auto& host : layout.members) layout.columns = std::min(layout.columns, host.size());
  if (layout.local_index < layout.columns)
    for (const auto& host : layout.members)
      layout.column.push_back(ranks[host[layout.local_index]]);
  return layout;
}

}  // namespace hora::hierarchical
