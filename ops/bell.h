#pragma once

#include <atomic>
#include <cstdint>

namespace hora {

/// Wakes one rank's driver (whoever holds its engine's token) if it sleeps, for the cost of a load
/// if it does not. The word may lie in memory shared between processes.
///
/// Protocol. Sleeper: arm(); look once more for work; poll() on the eventfd; disarm(). Ringer: make
/// the work visible; ring(). The sequentially consistent pair "store work, load armed" against
/// "store armed, load work" makes sure that at least one of the two sees the other.
///
/// Ownership: borrows both; copies are cheap. Threads: any.
class Bell {
 public:
  Bell() = default;
  Bell(std::atomic<uint32_t>* armed, int eventfd) : armed_(armed), eventfd_(eventfd) {}

  void ring() const {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (armed_ && armed_->load(std::memory_order_relaxed)) wake();
  }
  void arm() const {
    armed_->store(1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  void disarm() const { armed_->store(0, std::memory_order_relaxed); }
  int eventfd() const { return eventfd_; }
  void drain() const;  ///< forgets past rings, after poll() said readable

 private:
  void wake() const;
  std::atomic<uint32_t>* armed_ = nullptr;
  int eventfd_ = -1;
};

}  // namespace hora
