#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fusion/bucketer.h"
#include "fusion/signature.h"
#include "hora/status.h"

/// The nouns of the control plane. Values only.
namespace hora {

using Time = int64_t;  ///< nanoseconds of an injected clock
using Seq = uint64_t;  ///< position in the log; the first entry has 1
constexpr Time kNever = INT64_MAX;

/// One request as the control plane sees it. Ownership: the engine's; it stays where it is,
/// unchanged, until its completion or until its last slice was handed out in a Plan.
struct Submission {
  Handle handle = 0;
  SetId set = 0;
  std::string name;
  Signature signature;
  int16_t priority = 0;
  std::string values;  ///< of a carried operation: this rank's input, as bytes
};

/// A contiguous run of one operation's elements. For a group they count through all its tensors.
struct Slice {
  ItemId id = 0;
  uint64_t first = 0, count = 0;
  Handle handle = 0;  ///< 0: this rank has joined and contributes zeros
  bool last = false;  ///< the operation has no further slice
};

/// What a lane executes: one collective over the fused slices. Equal on all members but for
/// handles.
struct Plan {
  Seq seq = 0;
  SetId set = 0;
  uint8_t lane = 0;
  std::vector<Slice> slices;
};

/// This rank has no more to submit in `set`; `handle` completes when all members have said so.
struct Join {
  SetId set = 0;
  Handle handle = 0;
};

/// Why an epoch ended.
struct Abort {
  Rank culprit = 0;
  std::string cause;
};

/// Settings of one epoch. Bucketing, cache_capacity and lanes matter at the root only.
struct Options : BucketOptions {
  size_t cache_capacity = 65'536;         ///< names; above it the cache starts anew
  Time failure_timeout = 10'000'000'000;  ///< silence of a neighbor that ends the epoch
  Time stall_after = 60'000'000'000;   ///< age of a request that makes it ask who is late; doubles
  Time stall_abort = 0;                ///< age that ends the epoch; 0: never
  Time leave_timeout = 5'000'000'000;  ///< from leaving to giving up on the others
  uint64_t carry_bytes = 0;        ///< of all members together; up to this an operation is carried
  bool heartbeats = true;          ///< ping neighbors and watch for their silence
  size_t cut_bytes = 1 << 20;      ///< a frame that has grown to this is ended and sent
  std::vector<std::string> where;  ///< by rank, " (host a)" for messages; empty: all on one host
};

}  // namespace hora
