#pragma once

#include <atomic>
#include <cstdint>

namespace hora {

/// What must not be used in the child of a fork: threads do not survive it, and shared memory is
/// not the child's to touch. A guard registers itself; in a child, every guard is foreign and had
/// its chance to close descriptors.
///
/// The list of guards is the one thing in Hora that belongs to the process and not to an engine:
/// pthread_atfork() knows no other way.
///
/// Threads: any.
class ForkGuard {
 public:
  ForkGuard();
  virtual ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

  /// This is a child of the process that made the guard.
  bool foreign() const { return foreign_.load(std::memory_order_relaxed); }

 protected:
  /// In the child, on its only thread: may close descriptors, must not lock or allocate.
  virtual void in_child() = 0;

 private:
  static void child();
  std::atomic<bool> foreign_{false};
  ForkGuard* next_ = nullptr;
  ForkGuard* previous_ = nullptr;
};

}  // namespace hora
