// Goal: a timeline's file is JSON at any instant, bounded, and tells every tensor's phases in
// order; starting and stopping at run time loses nothing. Method: moments made by hand into a
// TimelineFile, and two ranks as threads of this process with a timeline on.
#include "runtime/timeline.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "hora/engine.h"
#include "runtime/name_table.h"
#include "tests/support/engine_work.h"

namespace hora {
namespace {

using Json = nlohmann::json;
using Kind = Moment::Kind;
using support::allreduce;

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// The events of a file that is whole.
std::vector<Json> events_of(const std::string& path) {
  const Json all = Json::parse(text_of(path), nullptr, false);
  EXPECT_TRUE(all.is_array()) << path;
  return {all.begin(), all.end()};
}

class TimelineTest : public testing::Test {
 protected:
  TimelineTest() : folder_(testing::TempDir() + "/timeline." + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~TimelineTest() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

 private:
  const std::string folder_;
};

Name name_of(uint32_t number, const std::string& text) {
  Name name;
  name.number = number;
  name.text = text;
  return name;
}

TimelineFile::Origin rank_zero() {
  TimelineFile::Origin origin;
  origin.size = 2;
  origin.lanes = 2;
  origin.host = "here";
  origin.backend = "shm";
  origin.now = 1'000'000;
  return origin;
}

/// A tensor's whole way, submitted at `at`, a microsecond for each phase.
void live(TimelineFile& file, const Name& name, uint64_t plan, int64_t at) {
  const auto end = static_cast<uint64_t>(at + 1000);
  file.add(Moment::of(Kind::kSubmitted, at, &name, end, 0, 0));
  file.add(Moment::of(Kind::kAgreed, at + 2000, &name, plan, 400, 0));
  file.add(Moment::of(Kind::kBegun, at + 3000, nullptr, plan, 0, 1));
  file.add(Moment::of(Kind::kEnded, at + 4000, nullptr, plan, 400, 0));
  file.add(Moment::of(Kind::kDone, at + 5000, &name, 0, 0, 0));
}

TEST_F(TimelineTest, WritesATensorsPhasesAndItsBucket) {
  const Name name = name_of(7, "layer \"1\"\n.weight");
  auto file = TimelineFile::create(path("t.json"), rank_zero(), 1 << 20);
  ASSERT_TRUE(file.ok()) << file.status().message();
  live(*file.value(), name, 12, 1'250'500);
  ASSERT_TRUE(file.value()->flush().ok());
  Json tensor, bucket, track;
  for (const Json& event : events_of(path("t.json"))) {
    if (event["tid"] == 107) (event["ph"] == "X" ? tensor : track) = event;
    if (event["ph"] == "X" && event["tid"] == 2) bucket = event;
  }
  EXPECT_EQ(track["args"]["name"], name.text);
  EXPECT_EQ(tensor["ts"], 250.5);
  EXPECT_EQ(tensor["dur"], 5.0);
  EXPECT_EQ(tensor["name"], "allreduce");
  EXPECT_EQ(tensor["args"],
            Json({{"taken", 1.0}, {"agreed", 2.0}, {"begun", 3.0}, {"moved", 4.0}, {"plan", 12}}));
  EXPECT_EQ(bucket["ts"], 253.5);
  EXPECT_EQ(bucket["dur"], 1.0);
  EXPECT_EQ(
      bucket["args"],
      Json({{"plan", 12}, {"bytes", 400}, {"tensors", 1}, {"queued", 1.0}, {"by", "shm dense"}}));
}

TEST_F(TimelineTest, IsWholeAfterEveryFlush) {
  const Name name = name_of(0, "x");
  auto file = TimelineFile::create(path("t.json"), rank_zero(), 1 << 20);
  ASSERT_TRUE(file.ok());
  size_t before = events_of(path("t.json")).size();
  for (uint64_t i = 1; i <= 50; ++i) {
    live(*file.value(), name, i, 2'000'000 + static_cast<int64_t>(i) * 10'000);
    ASSERT_TRUE(file.value()->flush().ok());
    const size_t now = events_of(path("t.json")).size();
    EXPECT_EQ(now, before + (i == 1 ? 3 : 2)) << "the tensor's track, its bar, its bucket's bar";
    before = now;
  }
}

TEST_F(TimelineTest, KeepsItsBoundAndSaysThatItIsFull) {
  constexpr uint64_t kBound = 64 << 10;
  const Name name = name_of(0, "x");
  auto file = TimelineFile::create(path("t.json"), rank_zero(), kBound);
  ASSERT_TRUE(file.ok());
  uint64_t plan = 0;
  for (; !file.value()->full() && plan < 10'000; ++plan) {
    live(*file.value(), name, plan + 1, 2'000'000);
    if (plan % 7 == 0) ASSERT_TRUE(file.value()->flush().ok());
  }
  EXPECT_TRUE(file.value()->full());
  live(*file.value(), name, plan + 1, 2'000'000);
  ASSERT_TRUE(file.value()->flush().ok());
  EXPECT_LE(std::filesystem::file_size(path("t.json")), kBound);
  EXPECT_GT(std::filesystem::file_size(path("t.json")), kBound - 1024);
  EXPECT_EQ(events_of(path("t.json")).back()["name"], "hora_full");
}

TEST_F(TimelineTest, LeavesOutWhatWasSubmittedBeforeItBegan) {
  const Name name = name_of(3, "x");
  auto file = TimelineFile::create(path("t.json"), rank_zero(), 1 << 20);
  ASSERT_TRUE(file.ok());
  file.value()->add(Moment::of(Kind::kDone, 2'000'000, &name, 0, 0, 0));
  file.value()->add(Moment::of(Kind::kEnded, 2'000'000, nullptr, 9, 4, 0));
  ASSERT_TRUE(file.value()->flush().ok());
  for (const Json& event : events_of(path("t.json"))) EXPECT_EQ(event["ph"], "M") << event;
}

TEST_F(TimelineTest, TellsOfARequestThatWaitsForLong) {
  const Name name = name_of(0, "x");
  auto file = TimelineFile::create(path("t.json"), rank_zero(), 1 << 20);
  ASSERT_TRUE(file.ok());
  file.value()->add(Moment::of(Kind::kSubmitted, 2'000'000, &name, 2'000'000, 0, 0));
  for (const int64_t now : {2'000'500, 3'000'000, 4'000'000})
    file.value()->tell_waiting(now, 1'000'000);
  ASSERT_TRUE(file.value()->flush().ok());
  int told = 0;
  for (const Json& event : events_of(path("t.json")))
    if (event["ph"] == "i") {
      ++told;
      EXPECT_EQ(event["name"], "still negotiating");
      EXPECT_EQ(event["ts"], 2000.0);
    }
  EXPECT_EQ(told, 1);
}

TEST_F(TimelineTest, CountsWhatItsRingHasNoRoomForAndSaysSo) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "observed so closely, whoever records is slower than who writes";
#endif
  const SystemClock clock;
  Timeline timeline(clock);
  const Name name = name_of(0, "x");
  ASSERT_TRUE(timeline.start(path("t.json"), rank_zero(), 64 << 20).ok());
  // Much faster than any disk: at some time the ring is full.
  uint64_t recorded = 0;
  while (timeline.dropped() == 0 && recorded < 200'000'000) {
    timeline.record(Moment::of(Kind::kDone, 0, &name, 0, 0, 0));
    ++recorded;
  }
  EXPECT_GT(timeline.dropped(), 0u);
  ASSERT_TRUE(timeline.stop().ok());
  bool told = false;
  for (const Json& event : events_of(path("t.json")))
    told |= event["name"].get<std::string>().ends_with("moments lost");
  EXPECT_TRUE(told);
}

TEST(Timeline, PutsTheRankBeforeTheExtension) {
  EXPECT_EQ(Timeline::path_of("a/t.json", 0), "a/t.json");
  EXPECT_EQ(Timeline::path_of("a/t.json", 3), "a/t.3.json");
  EXPECT_EQ(Timeline::path_of("a.b/t", 12), "a.b/t.12");
}

TEST(Timeline, KeepsTheFilesOfEarlierEpochs) {
  EXPECT_EQ(Timeline::path_in_epoch("a/t.json", 1), "a/t.json");
  EXPECT_EQ(Timeline::path_in_epoch("a/t.json", 2), "a/t.epoch2.json");
  EXPECT_EQ(Timeline::path_of(Timeline::path_in_epoch("a/t.json", 2), 1), "a/t.epoch2.1.json");
}

/// Both ranks reduce `count` tensors, named after `prefix`.
void reduce(std::vector<std::unique_ptr<Engine>>& engines, const std::string& prefix, int count) {
  std::vector<std::thread> threads;
  for (auto& engine : engines)
    threads.emplace_back([&] {
      std::vector<float> values(100, 1);
      for (int i = 0; i < count; ++i)
        EXPECT_TRUE(engine->run(allreduce(prefix + std::to_string(i), values)).ok());
    });
  for (auto& thread : threads) thread.join();
}

/// All together, since a rank waits for the others' good-bye.
void leave(std::vector<std::unique_ptr<Engine>>& engines) {
  std::vector<std::thread> threads;
  for (auto& engine : engines) threads.emplace_back([&] { EXPECT_TRUE(engine->shutdown().ok()); });
  for (auto& thread : threads) thread.join();
}

TEST_F(TimelineTest, StartsAndStopsWhileAnEngineRuns) {
  Config config;
  config.log_level = "off";
  auto engines = Engine::start_local(2, config);
  ASSERT_TRUE(engines.ok());
  Engine& first = *engines.value()[0];
  reduce(engines.value(), "before", 5);
  for (const std::string file : {"one.json", "two.json"}) {
    ASSERT_TRUE(first.start_timeline(path(file)).ok());
    EXPECT_EQ(first.start_timeline(path("other")).code(), Code::kInvalidArgument);
    reduce(engines.value(), file, 20);
    first.end_range("backward", first.begin_range());
    ASSERT_TRUE(first.stop_timeline().ok());
    EXPECT_EQ(first.begin_range(), 0);
    reduce(engines.value(), "between", 5);
  }
  leave(engines.value());
  for (const std::string file : {"one.json", "two.json"}) {
    std::map<int, std::string> names;
    std::map<std::string, int> seen;
    for (const Json& event : events_of(path(file))) {
      if (event["name"] == "thread_name") names[event["tid"]] = event["args"]["name"];
      if (event["ph"] != "X") continue;
      if (event["tid"] == 91) ++seen[event["name"]];
      if (event["tid"] < 100) continue;
      ++seen[names[event["tid"]]];
      const Json& args = event["args"];
      EXPECT_LE(0, args["taken"]);
      EXPECT_LE(args["taken"], args["agreed"]);
      EXPECT_LE(args["agreed"], args["begun"]);
      EXPECT_LE(args["begun"], args["moved"]);
      EXPECT_LE(args["moved"], event["dur"]);
    }
    EXPECT_EQ(seen.size(), 21u) << file;
    for (int i = 0; i < 20; ++i) EXPECT_EQ(seen[file + std::to_string(i)], 1) << i;
    EXPECT_EQ(seen["backward"], 1);
  }
  EXPECT_FALSE(std::filesystem::exists(path("one.1.json"))) << "only rank 0 was asked";
}

TEST_F(TimelineTest, RefusesAPathThatCannotBeWritten) {
  auto engines = Engine::start_local(1, Config());
  ASSERT_TRUE(engines.ok());
  const Status status = engines.value()[0]->start_timeline(path("no/such/folder/t.json"));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("no/such/folder"), std::string::npos) << status.message();
}

TEST_F(TimelineTest, AnEngineThatEndsLeavesAWholeFile) {
  auto engines = Engine::start_local(2, Config());
  ASSERT_TRUE(engines.ok());
  ASSERT_TRUE(engines.value()[0]->start_timeline(path("t.json")).ok());
  reduce(engines.value(), "x", 3);
  leave(engines.value());
  int lives = 0;
  for (const Json& event : events_of(path("t.json")))
    lives += event["ph"] == "X" && event["tid"] >= 100;
  EXPECT_EQ(lives, 3);
}

}  // namespace
}  // namespace hora
