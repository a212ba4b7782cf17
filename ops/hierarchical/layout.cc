#include "ops/hierarchical/layout.h"

#include <algorithm>

namespace hora::hierarchical {

Layout Layout::of(std::span<const Rank> ranks, std::span<const int> hosts, Rank rank) {
  Layout layout;
  std::vector<int> seen;                   // hosts, in order
  std::vector<std::vector<Rank>> members;  // by that order
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int host = hosts[static_cast<size_t>(ranks[i])];
    const auto at = static_cast<size_t>(std::find(seen.begin(), seen.end(), host) - seen.begin());
    if (at == seen.size()) {
      seen.push_back(host);
      members.emplace_back();
    }
    if (ranks[i] == rank) layout.me = static_cast<int>(i);
    layout.host_of.push_back(at);
    layout.local_of.push_back(members[at].size());
    members[at].push_back(ranks[i]);
  }
  layout.hosts = seen.size();
  if (layout.me < 0) return layout;
  const auto me = static_cast<size_t>(layout.me);
  layout.local = members[layout.host_of[me]];
  layout.local_index = layout.local_of[me];
  layout.columns = layout.local.size();
  for (const auto& host : members) layout.columns = std::min(layout.columns, host.size());
  if (layout.local_index < layout.columns)
    for (const auto& host : members) layout.column.push_back(host[layout.local_index]);
  return layout;
}

}  // namespace hora::hierarchical
