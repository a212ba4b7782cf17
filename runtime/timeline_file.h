#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/descriptor.h"
#include "runtime/moment.h"

namespace hora {

/// One rank's timeline on disk: a Chrome trace, a JSON array with one event in each line.
///
///   [
///   {"ph":"M","pid":0,"tid":0,"name":"hora_clock","args":{...}},
///   {"ph":"X","pid":0,"tid":101,"ts":1.2,"dur":3.4,"name":"allreduce","args":{...}}
///   ]
///
/// Times are microseconds since the file's beginning; `hora_clock` has what aligns the files of
/// several ranks. Every tensor has a track with one event for each time it was submitted, whose
/// args say when, after `ts`, each phase ended. Every lane has a track with its buckets.
///
/// The closing bracket is written with each flush, over the one before; a reader that comes in the
/// middle of a flush finds whole lines and then no bracket, which viewers accept.
///
/// Threads: one at a time.
class TimelineFile {
 public:
  struct Origin {
    Rank rank = 0;
    int size = 1, lanes = 1;
    std::string host, backend;
    std::string job;  ///< with `epoch` names the run, so that files of two are not mixed up
    uint32_t epoch = 1;
    int64_t now = 0;      ///< of the engine's clock: the file's beginning
    int64_t unix_ns = 0;  ///< the same moment for other hosts
  };

  /// Errors: kInvalidArgument if `path` cannot be written. Replaces what is there.
  static Result<std::unique_ptr<TimelineFile>> create(const std::string& path, const Origin& origin,
                                                      uint64_t bound);

  /// Takes the next moment of the engine; what it completes becomes lines, to be flushed.
  void add(const Moment& moment);

  /// Tells of requests that have been on their way for long, once for each.
  void tell_waiting(int64_t now, int64_t longer_than);

  /// Writes the lines. Errors: kUnavailable with the system's reason; nothing more is written.
  Status flush();

  /// Tells how many moments were lost for lack of room.
  void tell_dropped(uint64_t count, int64_t now);

  /// `bound` is reached: the last line says so, and add() does nothing any more.
  bool full() const { return full_; }
  size_t unflushed() const { return lines_.size(); }

 private:
  struct Life {  ///< one tensor's current request
    const Name* name = nullptr;
    bool introduced = false, told = false, open = false;
    uint8_t op = 0;
    uint64_t plan = 0;
    int64_t submitted = 0, taken = 0, agreed = 0, begun = 0, ended = 0;
  };
  struct Bucket {
    uint64_t plan = 0;
    int64_t agreed = 0, begun = 0;
    uint8_t lane = 0, op = 0, how = 0;
    std::vector<uint32_t> tensors;  ///< indices of lives_
  };

  TimelineFile(Descriptor file, const Origin& origin, uint64_t bound);
  void introduce_rank();
  void introduce(Life& life, SetId set);
  void introduce_track(uint32_t track, std::string_view name, std::string_view more);
  Life* life_of(const Name& name);
  Bucket& bucket_of(uint64_t plan);
  void submitted(const Moment& moment);
  void agreed(const Moment& moment);
  void begun(const Moment& moment);
  void ended(const Moment& moment);
  void done(const Moment& moment);
  void write_range(uint32_t track, std::string_view name, int64_t begin, int64_t end);
  void commit(size_t before);

  const Descriptor file_;
  const Origin origin_;
  const uint64_t bound_;
  std::string lines_;     ///< not written yet
  uint64_t written_ = 0;  ///< bytes on disk without the closing bracket
  bool full_ = false;
  std::vector<Life> lives_;  ///< by Name::number
  std::vector<Bucket> buckets_;
  size_t open_buckets_ = 0;  ///< the first ones of buckets_; the others keep their memory
};

}  // namespace hora
