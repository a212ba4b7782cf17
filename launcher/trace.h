#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"

namespace hora {

/// One rank's timeline, read back. The format is described in docs/timeline.md. All times are
/// nanoseconds of the rank's own clock.
struct Trace {
  /// One request. Phases it did not reach are 0.
  struct Life {
    uint64_t tensor = 0;  ///< its track
    std::string op, error;
    uint64_t plan = 0;  ///< its first bucket, the same on all ranks; 0: none
    int64_t submitted = 0, taken = 0, agreed = 0, begun = 0, moved = 0, done = 0;
  };
  struct Bucket {
    uint64_t plan = 0, bytes = 0, tensors = 0;
    int lane = 0;
    std::string op, by, error;
    int64_t begun = 0, ended = 0, queued = 0;  ///< queued: how long before `begun`
  };
  struct Range {
    std::string name;
    int64_t begin = 0, end = 0;
  };

  std::string path, job, host, backend;
  uint64_t epoch = 0;  ///< which start within the job
  Rank rank = 0;
  int size = 1;
  int64_t base = 0;     ///< of the file's times
  int64_t unix_ns = 0;  ///< `base` for other hosts
  bool full = false;
  uint64_t lost = 0;                        ///< moments, for lack of room
  std::map<uint64_t, std::string> tensors;  ///< name by track
  std::vector<Life> lives;                  ///< in order of their ends
  std::vector<Bucket> buckets;              ///< in order of their ends
  std::vector<Range> waits, ranges;
};

/// Reads what a rank has written so far, whether or not it is still writing. Errors:
/// kInvalidArgument names the file, and the line that is no timeline of ours.
Result<Trace> read_trace(const std::string& path);
/// The same of a text. `path` is for messages.
Result<Trace> parse_trace(std::string_view text, const std::string& path);

/// Turns all times into nanoseconds since the earliest beginning among the files, and sorts by
/// rank. Ranks of one host share a clock. Clocks of other hosts are aligned by what happened: an
/// allreduce ends nowhere before it has begun everywhere, so each one bounds the difference of two
/// clocks from both sides, and the tightest bounds of all tell it to within half the time of the
/// fastest. Without an allreduce in common the wall clocks decide. Errors: kInvalidArgument if two
/// files are of one rank, or not of one run.
Status align(std::vector<Trace>& traces);

/// All ranks in one Chrome trace: each tensor's phases as a track of bars, lanes, waits, and an
/// arrow from the rank that a bucket waited for to the same bucket on the others.
std::string merged_trace(const std::vector<Trace>& traces);

/// Tables for a terminal: time per phase, per tensor, overlap, and who was late.
std::string trace_summary(const std::vector<Trace>& traces, size_t tensors);

/// The summary's picture, as SVG: a lane for each rank and what moved when, and the phases' shares.
std::string trace_picture(const std::vector<Trace>& traces);

}  // namespace hora
