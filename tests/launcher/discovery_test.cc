// Goal: a discovery script is heard, and one that fails or hangs disturbs nothing. Method: real
// scripts, whose ends are reaped here as the supervisor does, under a clock turned by hand.
#include "launcher/discovery.h"

#include <poll.h>

#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

namespace hora {
namespace {

const std::vector<Host> kTwo = {{"localhost", 2, {}}};

class HandClock final : public Clock {
 public:
  int64_t now() const override { return time; }
  int64_t time = 0;
};

Discovery::Options options_for(const std::string& script) {
  Discovery::Options options;
  options.script = script;
  return options;
}

/// Runs the script once: waits for its process to end, however long that takes.
Result<std::vector<Host>> run_once(Discovery& discovery) {
  discovery.attend();
  if (auto found = discovery.take()) return *std::move(found);
  int status = 0;
  const pid_t pid = ::wait(&status);
  EXPECT_TRUE(discovery.ended(pid, status));
  EXPECT_EQ(discovery.descriptor(), -1);
  auto found = discovery.take();
  EXPECT_TRUE(found);
  EXPECT_FALSE(discovery.take());
  return found ? *std::move(found) : Status(Code::kUnavailable, "nothing");
}

TEST(Discovery, AsksAgainAfterAPeriodAndNotBefore) {
  HandClock clock;
  Discovery discovery(options_for("echo localhost:2; echo noise >&2"), clock);
  EXPECT_EQ(run_once(discovery).value(), kTwo);
  EXPECT_EQ(discovery.wake_at(), 1'000'000'000);
  clock.time = 999'999'999;
  discovery.attend();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // there is no child
  clock.time = 1'000'000'000;
  EXPECT_EQ(run_once(discovery).value(), kTwo);
}

TEST(Discovery, SaysWhyAScriptCouldNotTell) {
  HandClock clock;
  Discovery failing(options_for("echo localhost:2; exit 3"), clock);
  EXPECT_EQ(run_once(failing).status().message(), "ended with code 3");
  Discovery killed(options_for("kill -9 $$"), clock);
  EXPECT_EQ(run_once(killed).status().message(), "was killed by signal 9");
  Discovery missing(options_for("/no/such/program"), clock);
  EXPECT_EQ(run_once(missing).status().message(), "ended with code 127");
}

TEST(Discovery, EndsAScriptThatHangsWithAllItHasStarted) {
  HandClock clock;
  Discovery discovery(options_for("sleep 1000 & sleep 1000; echo never"), clock);
  discovery.attend();
  EXPECT_EQ(discovery.wake_at(), 30'000'000'000);
  clock.time = 30'000'000'000;
  EXPECT_EQ(run_once(discovery).status().message(), "has not ended within 30 s");
}

TEST(Discovery, AnotherChildIsNotTheScript) {
  HandClock clock;
  Discovery discovery(options_for("echo localhost"), clock);
  discovery.attend();
  EXPECT_FALSE(discovery.ended(1, 0));
  int status = 0;
  EXPECT_TRUE(discovery.ended(::wait(&status), status));
}

}  // namespace
}  // namespace hora
