#pragma once

#include <chrono>
#include <cstdint>

namespace hora {

/// Tells time. Whatever has a timeout takes one, so that tests and simulations can turn it by hand.
/// Threads: any.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Nanoseconds since some moment in the past; never goes back.
  virtual int64_t now() const = 0;
};

/// The system's monotonic clock. Stateless: copies are equal.
class SystemClock : public Clock {
 public:
  int64_t now() const override;
};

/// Nanoseconds since 1970 by the host's own clock, for people and for other hosts. May jump: no
/// timeout takes it. Threads: any.
int64_t unix_time();

/// A moment after which nobody should wait any longer. Borrows the clock.
class Deadline {
 public:
  Deadline(const Clock& clock, std::chrono::nanoseconds from_now);

  bool passed() const { return left().count() == 0; }
  /// Zero once it has passed.
  std::chrono::nanoseconds left() const;
  /// For poll(2): rounded up, so that a wait never wakes just before the deadline and spins.
  int poll_milliseconds() const;

 private:
  const Clock* clock_;
  int64_t at_;
};

}  // namespace hora
