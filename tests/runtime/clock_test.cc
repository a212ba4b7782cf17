// Goal: a deadline passes exactly when its clock says so, and survives extreme times.
// Method: a clock turned by hand.
#include "runtime/clock.h"

#include <limits>

#include <gtest/gtest.h>

namespace hora {
namespace {

using std::chrono::nanoseconds;

struct HandClock : Clock {
  int64_t time = 1000;
  int64_t now() const override { return time; }
};

TEST(Deadline, PassesWhenItsTimeHasCome) {
  HandClock clock;
  const Deadline deadline(clock, nanoseconds(10));
  EXPECT_FALSE(deadline.passed());
  EXPECT_EQ(deadline.left(), nanoseconds(10));
  clock.time = 1009;
  EXPECT_FALSE(deadline.passed());
  clock.time = 1010;
  EXPECT_TRUE(deadline.passed());
  clock.time = 5000;
  EXPECT_EQ(deadline.left(), nanoseconds(0));
}

TEST(Deadline, NeverWakesPollBeforeItsTime) {
  HandClock clock;
  EXPECT_EQ(Deadline(clock, nanoseconds(1)).poll_milliseconds(), 1);
  EXPECT_EQ(Deadline(clock, nanoseconds(1'000'001)).poll_milliseconds(), 2);
  EXPECT_EQ(Deadline(clock, nanoseconds(0)).poll_milliseconds(), 0);
}

TEST(Deadline, DoesNotOverflow) {
  HandClock clock;
  const Deadline deadline(clock, nanoseconds::max());
  EXPECT_FALSE(deadline.passed());
  EXPECT_EQ(deadline.poll_milliseconds(), std::numeric_limits<int>::max());
}

TEST(SystemClock, NeverGoesBack) {
  const SystemClock clock;
  int64_t last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const int64_t now = clock.now();
    EXPECT_GE(now, last);
    last = now;
  }
}

}  // namespace
}  // namespace hora
