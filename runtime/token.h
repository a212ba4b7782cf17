#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace hora {

/// Who drives an engine: its own thread, or a caller that waits (a visitor). Visitors go first,
/// since a driver that waits for its own result saves two thread switches. While visitors come and
/// go, the engine's thread naps instead of listening, so that nobody pays for waking it; it listens
/// again when a whole nap has passed without a visit, or at once when it is poked.
///
/// Threads: any.
class Token {
 public:
  /// Visitors. enter() is true if the token is theirs now; retry while not.
  void arrive() {
    visitors_.fetch_add(1, std::memory_order_acq_rel);
    visits_.fetch_add(1, std::memory_order_relaxed);
  }
  bool try_enter() { return held_.try_lock(); }
  void exit() { held_.unlock(); }
  void depart() { visitors_.fetch_sub(1, std::memory_order_acq_rel); }

  /// The engine's thread.
  bool wanted() const { return visitors_.load(std::memory_order_acquire) > 0; }
  void enter() { held_.lock(); }
  /// Returns when nobody visits, after at least one nap, or when poked.
  void nap();

  /// Ends the nap, if there is one.
  void poke();

 private:
  bool sleep(int64_t nanoseconds);

  std::mutex held_;
  std::atomic<uint32_t> visitors_{0}, visits_{0};
  std::atomic<uint32_t> napping_{0};  ///< a futex word
};

}  // namespace hora
