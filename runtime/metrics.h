#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "hora/counters.h"
#include "hora/request.h"

namespace hora {

/// A number that one thread at a time adds to and all may read. Costs what a plain one costs.
class Tally {
 public:
  void add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  /// The same where several threads may add.
  void add_shared(uint64_t amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

/// A Histogram that grows; its threads are those of a Tally.
class Distribution {
 public:
  void add(uint64_t value) {
    buckets_[Histogram::bucket_of(value)].add(1);
    sum_.add(value);
  }
  void add_shared(uint64_t value) {
    buckets_[Histogram::bucket_of(value)].add_shared(1);
    sum_.add_shared(value);
  }
  Histogram snapshot() const;

 private:
  Tally sum_;
  std::array<Tally, Histogram::kBuckets> buckets_;
};

/// What one engine counts. Threads: the token holder adds, but for `waits`, to which any thread
/// adds; any thread may take a snapshot, whose fields may be some additions apart.
struct Metrics {
  Tally requests, errors, buckets, bytes, wire_bytes, control_bytes;
  Tally compressed_bytes, compressed_wire_bytes;
  std::array<Tally, kOps> operations;
  std::array<Distribution, kPhases> phases;
  Distribution bucket_bytes, bucket_tensors, waits;

  Distribution& of(Phase phase) { return phases[static_cast<size_t>(phase)]; }
  Counters snapshot() const;
};

/// The counters in Prometheus' text format, times in seconds, every sample labeled with the rank.
std::string metrics_text(const Counters& counters, Rank rank);

}  // namespace hora
