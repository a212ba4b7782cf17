#include "launcher/waits.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hora {

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

bool waits_for_others(const FlightOperation& operation) {
  const bool left_alone = operation.code == "peer lost" || operation.code == "peer left" ||
                          operation.code == "shut down";
  return operation.agreed == 0 && (operation.open() || left_alone);
}

const FlightRecord* Records::of(int rank) const {
  const auto same = [&](const FlightRecord& each) { return each.rank == rank; };
  const auto found = std::find_if(all_.begin(), all_.end(), same);
  return found == all_.end() ? nullptr : &*found;
}

std::vector<int> Records::absent() const {
  std::vector<int> ranks;
  for (int rank = 0; rank < size(); ++rank)
    if (!of(rank)) ranks.push_back(rank);
  return ranks;
}

std::vector<int> Records::members(uint32_t set) const {
  if (set == 0) {
    std::vector<int> world(static_cast<size_t>(size()));
    std::iota(world.begin(), world.end(), 0);
    return world;
  }
  for (const FlightRecord& record : all_)
    if (const auto found = record.sets.find(set); found != record.sets.end()) return found->second;
  return {};
}

const FlightOperation* Records::last(int rank, uint32_t set, std::string_view name) const {
  const FlightRecord* const record = of(rank);
  if (!record) return nullptr;
  const auto& operations = record->operations;
  const auto same = [&](const FlightOperation& each) {
    return each.set == set && each.name == name;
  };
  const auto found = std::find_if(operations.rbegin(), operations.rend(), same);
  return found == operations.rend() ? nullptr : &*found;
}

std::vector<Wait> Records::waits() const {
  std::vector<Wait> all;
  std::set<std::pair<uint32_t, std::string>> seen;
  for (const FlightRecord& record : all_) {
    for (const FlightOperation& operation : record.operations) {
      if (!waits_for_others(operation)) continue;
      if (!seen.emplace(operation.set, operation.name).second) continue;
      Wait wait;
      for (const int rank : members(operation.set)) {
        const FlightOperation* const theirs = last(rank, operation.set, operation.name);
        if (theirs && waits_for_others(*theirs))
          wait.waiting.push_back(rank);
        else if (!theirs || theirs->round < operation.round)
          wait.late.push_back(rank);
      }
      if (wait.late.empty()) continue;
      const auto same = [&](const Wait& each) {
        return each.waiting == wait.waiting && each.late == wait.late;
      };
      auto found = std::find_if(all.begin(), all.end(), same);
      if (found == all.end()) found = all.insert(all.end(), std::move(wait));
      found->operations.push_back(&operation);
      const int64_t end = operation.ended > 0 ? operation.ended : record.now;
      found->since = std::max(found->since, end - operation.submitted);
    }
  }
  return all;
}

Absence Records::absence(int rank) const {
  const FlightRecord* const record = of(rank);
  if (!record) return Absence::kNoRecord;
  if (!record->note.empty()) return Absence::kException;
  const auto& operations = record->operations;
  if (std::any_of(operations.begin(), operations.end(), waits_for_others))
    return Absence::kElsewhere;
  return record->reason == "shutdown" ? Absence::kEnded : Absence::kBusy;
}

}  // namespace hora
