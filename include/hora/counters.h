#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "hora/request.h"

namespace hora {

/// How often values of each magnitude were seen: bucket i counts the values below 2^i that are not
/// below 2^(i-1), the last one also all that are larger.
struct Histogram {
  static constexpr size_t kBuckets = 41;

  uint64_t count = 0, sum = 0;
  std::array<uint64_t, kBuckets> buckets{};

  static size_t bucket_of(uint64_t value) {
    return std::min(static_cast<size_t>(std::bit_width(value)), kBuckets - 1);
  }
};

/// What a request goes through. Submitted and negotiating are counted for each request, queued and
/// moving for each bucket.
enum class Phase : uint8_t {
  kSubmitted,    ///< until the engine takes it up
  kNegotiating,  ///< until all ranks have agreed to run it
  kQueued,       ///< until its lane is free
  kMoving,       ///< until its bytes are where they belong
  kTotal,        ///< from submit to the end, for each request
};
constexpr size_t kPhases = 5;
constexpr size_t kOps = 9;

std::string_view name_of(Phase phase);  ///< "negotiating"

/// What this rank has done since it started. Bytes are what this rank sent to others.
struct Counters {
  uint64_t requests = 0;               ///< completed, well or not
  uint64_t errors = 0;                 ///< of them, not ok
  uint64_t buckets = 0;                ///< collectives run
  uint64_t bytes = 0;                  ///< of tensors in them, before compression
  uint64_t wire_bytes = 0;             ///< sent to other ranks for them
  uint64_t control_bytes = 0;          ///< sent by the control plane
  uint64_t compressed_bytes = 0;       ///< what compressed tensors would have sent as they are
  uint64_t compressed_wire_bytes = 0;  ///< what they did send; the first by this is the real ratio
  uint64_t timeline_dropped = 0;       ///< moments that a timeline had no room for

  std::array<uint64_t, kOps> operations{};  ///< requests by Op
  std::array<Histogram, kPhases> phases;    ///< nanoseconds, by Phase
  Histogram bucket_bytes;                   ///< of one bucket
  Histogram bucket_tensors;                 ///< that travel in one bucket
  Histogram waits;  ///< nanoseconds a caller waited for what had not ended yet
};

}  // namespace hora
