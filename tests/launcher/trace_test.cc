// Goal: files of several ranks become one picture of one time, and the summary names who was late.
// Method: files written by hand and by the engine's own TimelineFile, with known times.
#include "launcher/trace.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace hora {
namespace {

using Json = nlohmann::json;

/// A rank's file: its clock is at `base` when it begins. One tensor, submitted `at` us later, takes
/// a bucket that runs from 50 to 60 us.
std::string file_of(int rank, int64_t base, int64_t unix_ns, const std::string& host, double at) {
  const Json clock = {{"ph", "M"},
                      {"pid", rank},
                      {"tid", 0},
                      {"name", "hora_clock"},
                      {"args",
                       {{"version", 1},
                        {"rank", rank},
                        {"size", 2},
                        {"host", host},
                        {"backend", "shm"},
                        {"base_ns", base},
                        {"unix_ns", unix_ns}}}};
  const Json name = {{"ph", "M"},
                     {"pid", rank},
                     {"tid", 100},
                     {"name", "thread_name"},
                     {"args", {{"name", "weight"}, {"set", 0}}}};
  const Json bucket = {
      {"ph", "X"},
      {"pid", rank},
      {"tid", 1},
      {"ts", 50.0},
      {"dur", 10.0},
      {"name", "allreduce"},
      {"args",
       {{"plan", 8}, {"bytes", 4000}, {"tensors", 1}, {"queued", 2.0}, {"by", "shm dense"}}}};
  const Json life = {{"ph", "X"},
                     {"pid", rank},
                     {"tid", 100},
                     {"ts", at},
                     {"dur", 61.0 - at},
                     {"name", "allreduce"},
                     {"args",
                      {{"taken", 1.0},
                       {"agreed", 48.0 - at},
                       {"begun", 50.0 - at},
                       {"moved", 60.0 - at},
                       {"plan", 8}}}};
  return "[\n" + clock.dump() + ",\n" + name.dump() + ",\n" + bucket.dump() + ",\n" + life.dump() +
         "\n]\n";
}

std::vector<Trace> both_ranks(const std::string& other_host, int64_t other_unix) {
  auto a = parse_trace(file_of(0, 1'000'000, 5'000'000, "here", 10), "a");
  auto b = parse_trace(file_of(1, 1'003'000, other_unix, other_host, 40), "b");
  EXPECT_TRUE(a.ok() && b.ok());
  return {b.value(), a.value()};
}

/// On one host, and aligned.
std::vector<Trace> two_ranks() {
  std::vector<Trace> traces = both_ranks("here", 99);
  EXPECT_TRUE(align(traces).ok());
  return traces;
}

TEST(Trace, ReadsWhatIsThere) {
  const auto trace = parse_trace(file_of(0, 1'000'000, 0, "here", 10), "a");
  ASSERT_TRUE(trace.ok()) << trace.status().message();
  ASSERT_EQ(trace.value().lives.size(), 1u);
  const Trace::Life& life = trace.value().lives[0];
  EXPECT_EQ(trace.value().tensors.at(life.tensor), "weight");
  EXPECT_EQ(life.submitted, 1'010'000);
  EXPECT_EQ(life.taken, 1'011'000);
  EXPECT_EQ(life.agreed, 1'048'000);
  EXPECT_EQ(life.begun, 1'050'000);
  EXPECT_EQ(life.moved, 1'060'000);
  EXPECT_EQ(life.done, 1'061'000);
  EXPECT_EQ(trace.value().buckets[0].by, "shm dense");
}

TEST(Trace, ReadsAFileThatIsCutAnywhere) {
  const std::string whole = file_of(0, 1'000'000, 0, "here", 10);
  const size_t clock_ends = whole.find('\n', 2);
  for (size_t length = clock_ends + 1; length <= whole.size(); ++length)
    EXPECT_TRUE(parse_trace(whole.substr(0, length), "a").ok()) << length;
}

TEST(Trace, SaysWhichLineIsNoTimeline) {
  const auto other = parse_trace("[\n{\"ph\":\"X\"},\nhello\n]\n", "a.json");
  EXPECT_EQ(other.status().code(), Code::kInvalidArgument);
  EXPECT_NE(other.status().message().find("a.json:3:"), std::string::npos);
  EXPECT_FALSE(parse_trace("[\n{\"ph\":\"X\"}\n]\n", "a.json").ok());
  EXPECT_FALSE(parse_trace("", "a.json").ok());
}

TEST(Trace, AlignsRanksOfOneHostByTheirClock) {
  const auto traces = two_ranks();
  EXPECT_EQ(traces[0].rank, 0);
  EXPECT_EQ(traces[0].lives[0].submitted, 10'000);
  EXPECT_EQ(traces[1].lives[0].submitted, 43'000);
}

TEST(Trace, AlignsOtherHostsByTheirWallClockIfTheyReducedNothing) {
  auto traces = both_ranks("there", 5'020'000);
  for (Trace& trace : traces) trace.buckets.clear();
  ASSERT_TRUE(align(traces).ok());
  EXPECT_EQ(traces[0].lives[0].submitted, 10'000);
  EXPECT_EQ(traces[1].lives[0].submitted, 60'000);
}

/// Rank 1's clock is `behind`; rank 0's first allreduce takes 100 ns, its second 10.
std::vector<Trace> ranks_of_two_hosts(int64_t behind) {
  Trace a, b;
  a.host = "here", b.host = "there";
  b.rank = 1;
  const auto bucket = [](const char* op, uint64_t plan, int64_t begun, int64_t ended) {
    Trace::Bucket made;
    made.op = op, made.plan = plan, made.begun = begun, made.ended = ended;
    return made;
  };
  a.buckets = {bucket("allreduce", 1, 1000, 1100), bucket("allreduce", 2, 2000, 2010)};
  b.buckets = {bucket("allreduce", 1, 950 - behind, 1100 - behind),
               bucket("allreduce", 2, 2000 - behind, 2010 - behind),
               bucket("broadcast", 3, 3000, 3010)};
  a.buckets.push_back(bucket("broadcast", 3, 9000, 9010));
  b.unix_ns = 500;  // a wall clock that is far off
  return {a, b};
}

TEST(Trace, AlignsOtherHostsByTheTightestAllreduceIfThereIsOne) {
  for (const int64_t behind : {0, 77'000, -77'000}) {
    auto traces = ranks_of_two_hosts(behind);
    const int64_t before = traces[1].buckets[1].begun - traces[0].buckets[1].begun;
    ASSERT_TRUE(align(traces).ok());
    const int64_t after = traces[1].buckets[1].begun - traces[0].buckets[1].begun;
    EXPECT_EQ(before, -behind);
    EXPECT_EQ(after, 0);
  }
}

TEST(Trace, TakesTheMiddleOfWhatClocksOfDifferentSpeedSay) {
  auto traces = ranks_of_two_hosts(0);
  traces[1].buckets[0].begun += 5000, traces[1].buckets[0].ended += 5000;
  ASSERT_TRUE(align(traces).ok());
  const int64_t apart = traces[1].buckets[1].begun - traces[0].buckets[1].begun;
  EXPECT_TRUE(apart == 0 || apart == -4975) << apart;
}

TEST(Trace, RefusesTwoFilesOfOneRank) {
  const Trace trace = parse_trace(file_of(0, 1, 1, "here", 10), "a").value();
  std::vector<Trace> twice = {trace, trace};
  EXPECT_EQ(align(twice).code(), Code::kInvalidArgument);
}

TEST(Trace, RefusesFilesOfTwoRuns) {
  for (const bool by_epoch : {false, true}) {
    auto traces = ranks_of_two_hosts(0);
    if (by_epoch)
      traces[1].epoch = 2;
    else
      traces[1].job = "another";
    EXPECT_EQ(align(traces).code(), Code::kInvalidArgument);
  }
}

TEST(Trace, MergesPhasesAndPointsFromTheLateRank) {
  const Json all = Json::parse(merged_trace(two_ranks()), nullptr, false);
  ASSERT_TRUE(all.is_array());
  std::vector<std::string> phases;
  Json tail, head;
  for (const Json& event : all) {
    if (event["ph"] == "X" && event["pid"] == 1 && event["tid"] == 100)
      phases.push_back(event["name"]);
    if (event["ph"] == "s") tail = event;
    if (event["ph"] == "f") head = event;
  }
  EXPECT_EQ(phases, (std::vector<std::string>{"allreduce", "submitted", "negotiating", "queued",
                                              "moving"}));
  EXPECT_EQ(tail["pid"], 1);
  EXPECT_EQ(tail["ts"], 43.0);
  EXPECT_EQ(head["pid"], 0);
  EXPECT_EQ(head["tid"], 1);
  EXPECT_EQ(head["ts"], 50.0);
  EXPECT_EQ(head["id"], tail["id"]);
}

TEST(Trace, SummaryNamesWhoWasLate) {
  const std::string page = trace_summary(two_ranks(), 20);
  EXPECT_NE(page.find("who was late, in 1 buckets\n"), std::string::npos) << page;
  EXPECT_NE(page.find("\n  0            0%          0.0"), std::string::npos) << page;
  EXPECT_NE(page.find("\n  1          100%         33.0         33.0         0.03  weight\n"),
            std::string::npos)
      << page;
  EXPECT_NE(page.find("\n  weight "), std::string::npos) << page;
}

TEST(Trace, PictureIsSvgWithABarForEveryBucket) {
  const std::string picture = trace_picture(two_ranks());
  EXPECT_TRUE(picture.starts_with("<svg ")) << picture;
  EXPECT_TRUE(picture.ends_with("</svg>\n"));
  size_t bars = 0;
  for (size_t at = 0; (at = picture.find("allreduce of 4000 bytes", at)) != picture.npos; ++at)
    ++bars;
  EXPECT_EQ(bars, 2u);
}

}  // namespace
}  // namespace hora
