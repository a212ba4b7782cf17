#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hora/status.h"

namespace hora {

/// One operation of a rank, as its flight record tells it. Times are nanoseconds of its clock, 0:
/// it did not get that far.
struct FlightOperation {
  uint64_t number = 0;  ///< in order of submission on its rank
  uint64_t round = 0;   ///< how often its rank had submitted the name
  std::string name, op, dtype, state, code, error;
  std::vector<int64_t> shape;  ///< of its first tensor
  uint64_t tensors = 0;
  uint32_t set = 0;
  int64_t submitted = 0, agreed = 0, ended = 0;

  bool open() const { return state != "done" && state != "failed"; }
};

/// What one rank has left in the folder. `reason`: why it was written; `note`: what the program
/// said of itself, such as the exception that ended it; `where`: its stack.
struct FlightRecord {
  int rank = 0, size = 1;
  uint32_t epoch = 1;
  std::string job, host, reason, note, health, where;
  int64_t now = 0;
  int64_t written = 0;  ///< when the file was, by its file system
  uint64_t submitted = 0;
  std::map<uint32_t, std::vector<int>> sets;  ///< members of process sets, but for the world
  std::vector<FlightOperation> operations;    ///< in order of submission
};

/// Errors: kInvalidArgument: `text` is no flight record.
Result<FlightRecord> parse_flight_record(const std::string& text);

/// The files rank*.json of a folder, by rank; of several jobs and epochs those of the latest.
/// Errors: kInvalidArgument: there are none, or `name: reason` of one that cannot be read.
Result<std::vector<FlightRecord>> read_flight_records(const std::string& directory);

}  // namespace hora
