#include "runtime/clock.h"

#include <algorithm>
#include <limits>

namespace hora {

int64_t SystemClock::now() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Deadline::Deadline(const Clock& clock, std::chrono::nanoseconds from_now) : clock_(&clock) {
  const int64_t now = clock.now();
  const int64_t room = std::numeric_limits<int64_t>::max() - std::max<int64_t>(now, 0);
  at_ = now + std::min<int64_t>(from_now.count(), room);
}

std::chrono::nanoseconds Deadline::left() const {
  return std::chrono::nanoseconds(std::max<int64_t>(at_ - clock_->now(), 0));
}

int Deadline::poll_milliseconds() const {
  const auto whole = std::chrono::ceil<std::chrono::milliseconds>(left()).count();
  return static_cast<int>(std::min<int64_t>(whole, std::numeric_limits<int>::max()));
}

}  // namespace hora
