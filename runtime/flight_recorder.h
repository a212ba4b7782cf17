#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"
#include "hora/world.h"
#include "runtime/operation.h"
#include "runtime/vocabulary.h"

namespace hora {

/// The last operations of one rank, for `hora explain`: which were submitted, agreed by all ranks,
/// under way, done or failed, and when. Operations in flight are found in their pool. Of those that
/// have ended a ring keeps the last kOperations; what they were in full only of those that failed,
/// so that a steady state writes 64 bytes for each and allocates nothing.
///
/// Threads: the token holder.
class FlightRecorder {
 public:
  static constexpr size_t kOperations = 1000;

  FlightRecorder();

  /// An operation was taken from the request queue: numbers it.
  void taken(Operation& operation);
  /// All ranks have agreed to run it, or its first slice, as part of bucket `plan`.
  static void agreed(Operation& operation, Seq plan, int64_t now);
  /// A bucket's turn on its lane has come.
  void begun(Seq plan, int lane);
  /// Its outcome is known.
  void done(const Operation& operation, int64_t now);

  /// What a record says beside the operations.
  struct Circumstances {
    const World& world;
    std::string_view job, reason;
    std::string_view where;  ///< the program's stack, if known
    std::string_view note;   ///< what the program said of itself
    Status health;
    int64_t now = 0;
    /// The ranks of a process set, or null.
    std::function<const std::vector<Rank>*(SetId)> members;
    /// Not announced yet: it waits for the rest of its bucket.
    std::function<bool(const Submission&)> lingers;
  };
  /// The record as JSON: one object, whose "operations" are in order of submission. Of more than
  /// kOperations in flight the oldest are told.
  std::string json(const Circumstances& circumstances, OperationPool& operations) const;

  /// Writes `json` to `directory`/rank<N>.json, so that a reader finds the old record or the new
  /// one, whole.
  static Status save(const std::string& directory, Rank rank, std::string_view json);

 private:
  struct Entry {
    const Name* name = nullptr;
    Flight flight;
    int64_t submitted = 0, ended = 0;
    DType dtype = DType::kFloat32;
    Op op = Op::kAllreduce;
    bool failed = false;
  };
  /// In full, as JSON; the key is the operation's number.
  struct Failure {
    uint64_t number = 0;
    std::string json;
  };
  std::string_view state_of(const Operation& operation, bool lingers) const;

  std::vector<Entry> ring_;
  size_t next_ = 0;
  std::vector<Failure> failures_;  ///< a ring, too, whose memory comes with the first failure
  size_t next_failure_ = 0;
  uint64_t numbers_ = 0;
  std::array<Seq, 256> begun_{};  ///< the bucket on each lane
};

}  // namespace hora
