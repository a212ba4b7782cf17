#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include <boost/lockfree/queue.hpp>
#include <boost/lockfree/spsc_queue.hpp>

#include "hora/status.h"
#include "runtime/clock.h"
#include "runtime/moment.h"
#include "runtime/timeline_file.h"

namespace hora {

/// The timeline of one engine. While it is on, moments go into a bounded lock-free ring, and a
/// thread (hora-timeline), which exists only then, makes them lines of a TimelineFile. A moment
/// that finds the ring full is dropped and counted; nobody ever waits for the disk.
///
/// Threads: record() the token holder; the rest any. Names that moments point to must outlive it.
class Timeline {
 public:
  explicit Timeline(const Clock& clock) : clock_(clock) {}
  ~Timeline() { (void)stop(); }

  bool on() const { return on_.load(std::memory_order_acquire); }

  /// Only while on(), as of a moment ago.
  void record(const Moment& moment) {
    if (!ring_->push(moment)) [[unlikely]]
      dropped_.fetch_add(1, std::memory_order_relaxed);
    if (++since_ring_ == kRingAfter) [[unlikely]]
      ring();
  }

  /// The same for any thread, for what is rare.
  void record_aside(const Moment& moment);
  void record_range(std::string_view name, int64_t began);

  /// Opens a new file and begins. `origin.now` and `unix_ns` are filled in. Errors: those of
  /// TimelineFile; kInvalidArgument if it is on.
  Status start(const std::string& path, TimelineFile::Origin origin, uint64_t bound);
  /// Ends, and says whether the file has everything. Errors: kUnavailable.
  Status stop();

  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

  /// Where `rank` writes if the job was told `path`.
  static std::string path_of(const std::string& path, int rank);
  /// What a job that was told `path` uses in its `epoch`, so that a new start keeps the files of
  /// those before.
  static std::string path_in_epoch(const std::string& path, uint32_t epoch);

 private:
  static constexpr size_t kCapacity = 128 << 10, kAsideCapacity = 4 << 10;
  static constexpr size_t kRingAfter = kCapacity / 4;
  static constexpr size_t kFlushBytes = 256 << 10;
  using Ring = boost::lockfree::spsc_queue<Moment>;
  using Aside = boost::lockfree::queue<Moment, boost::lockfree::fixed_sized<true>>;

  void run();
  void drain();
  void ring();

  const Clock& clock_;
  std::atomic<bool> on_{false};
  std::atomic<uint64_t> dropped_{0};
  std::unique_ptr<Ring> ring_;  ///< made at the first start and kept: a late moment may still come
  std::unique_ptr<Aside> aside_;
  size_t since_ring_ = 0;  ///< moments; token holder

  std::mutex control_;  ///< start and stop exclude each other; guards the next three
  std::thread writer_;
  std::unique_ptr<TimelineFile> file_;  ///< the writer's while it lives
  std::string path_;
  Status failed_;              ///< the writer's while it lives
  uint64_t told_dropped_ = 0;  ///< the writer's while it lives

  std::mutex mutex_;  ///< guards the following
  std::condition_variable wake_;
  bool stopping_ = false;
  std::set<std::string, std::less<>> texts_;  ///< names of ranges
  std::atomic<bool> rung_{false};
};

}  // namespace hora
