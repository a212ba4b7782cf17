#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/flight_records.h"

namespace hora {

/// Why a rank has not submitted what others wait for.
enum class Absence {
  kNoRecord,   ///< nothing is known of it
  kException,  ///< its program ended with one
  kEnded,      ///< its program ended, or called shutdown
  kElsewhere,  ///< it waits in another operation
  kBusy,       ///< it is in the program's own code
};

/// Operations that the same ranks wait for, and the same ranks have not submitted.
struct Wait {
  std::vector<int> waiting, late;
  std::vector<const FlightOperation*> operations;  ///< as the first of `waiting` tells them
  int64_t since = 0;                               ///< nanoseconds of the longest wait
};

/// The records of one job, by rank. Ownership: refers to the list it was made of.
class Records {
 public:
  /// At least one.
  explicit Records(const std::vector<FlightRecord>& all) : all_(all) {}

  int size() const { return all_[0].size; }
  const std::vector<FlightRecord>& all() const { return all_; }
  const FlightRecord* of(int rank) const;  ///< null: it left none
  std::vector<int> absent() const;

  /// The ranks of a process set; empty if no record tells them.
  std::vector<int> members(uint32_t set) const;

  /// The latest operation of this name that `rank` has submitted, or null.
  const FlightOperation* last(int rank, uint32_t set, std::string_view name) const;

  /// What some members of a set wait for because others have not submitted it.
  std::vector<Wait> waits() const;

  Absence absence(int rank) const;

 private:
  const std::vector<FlightRecord>& all_;
};

/// "rank 3", "ranks 0, 2".
std::string ranks_text(const std::vector<int>& ranks);

/// It needs ranks that have not submitted it, or it failed for want of them.
bool waits_for_others(const FlightOperation& operation);

}  // namespace hora
