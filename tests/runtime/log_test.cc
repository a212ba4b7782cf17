// Goal: a message is one line with the rank, and a level silences what is less important.
// Method: logs into a pipe.
#include "runtime/log.h"

#include <unistd.h>

#include <gtest/gtest.h>

namespace hora {
namespace {

std::string logged(LogLevel level) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const Log log("hora rank 3", level, ends[1]);
  log.info("{} is {}", "pi", 3);
  log.warning("late: {}", 7);
  ::close(ends[1]);
  std::string text(4096, '\0');
  text.resize(static_cast<size_t>(std::max<ssize_t>(::read(ends[0], text.data(), text.size()), 0)));
  ::close(ends[0]);
  return text;
}

TEST(Log, PrefixesTheRankAndTheLevel) {
  EXPECT_EQ(logged(LogLevel::kInfo),
            "[hora rank 3] info: pi is 3\n[hora rank 3] warning: late: 7\n");
}

TEST(Log, LeavesOutWhatIsLessImportant) {
  EXPECT_EQ(logged(LogLevel::kWarning), "[hora rank 3] warning: late: 7\n");
  EXPECT_EQ(logged(LogLevel::kOff), "");
}

TEST(Log, TakesRankAndLevelFromTheConfig) {
  Config config;
  EXPECT_TRUE(Log(config).enabled(LogLevel::kWarning));
  EXPECT_FALSE(Log(config).enabled(LogLevel::kInfo));
  config.log_level = "trace";
  EXPECT_TRUE(Log(config).enabled(LogLevel::kTrace));
}

}  // namespace
}  // namespace hora
