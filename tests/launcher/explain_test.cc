// Goal: records of several ranks together tell which rank did not do what.
// Method: explain() on made-up records; real programs are in tests/python/mistakes.
#include "launcher/explain.h"

#include <chrono>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace hora {
namespace {

FlightOperation operation(const std::string& name, uint64_t round, const std::string& state) {
  FlightOperation result;
  result.name = name;
  result.round = round;
  result.state = state;
  result.op = "allreduce";
  result.dtype = "float32";
  result.tensors = 1;
  result.shape = {4};
  if (state == "agreed") result.agreed = 1;
  return result;
}

FlightRecord record(int rank, int size, std::vector<FlightOperation> operations) {
  FlightRecord result;
  result.rank = rank;
  result.size = size;
  result.reason = "asked for";
  result.now = 2'000'000'000;
  result.operations = std::move(operations);
  return result;
}

void expect_in(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), text.npos) << text;
}

TEST(Explain, SaysSoWhenNothingIsWrong) {
  expect_in(explain({record(0, 1, {operation("a", 1, "done")})}), "Nothing is wrong");
}

TEST(Explain, NamesTheRankThatSkippedARoundAndWhatItDidLast) {
  FlightRecord late = record(1, 3, {operation("grad", 4, "done"), operation("x", 1, "done")});
  late.where =
      "  File \"train.py\", line 3, in load\n    read()\n  File \"/lib/hora/runtime.py\", line 9, "
      "in "
      "x\n";
  const std::string text = explain({record(0, 3, {operation("grad", 5, "announced")}), late,
                                    record(2, 3, {operation("grad", 5, "announced")})});
  expect_in(text,
            "1. Rank 1 did not submit 'grad' (allreduce of float32 [4]); ranks 0, 2 waited 2.0 s");
  expect_in(text, "rank 1 submitted it 4 times, ranks 0, 2 5 times");
  expect_in(text, "its last was 'x' (allreduce of float32 [4]), done; it is busy elsewhere");
  expect_in(text, "line 3, in load\n");
  EXPECT_EQ(text.find("hora/runtime.py"), text.npos) << text;
}

TEST(Explain, ARankThatIsAheadIsNotLate) {
  const std::string text = explain({record(0, 2, {operation("a", 1, "announced")}),
                                    record(1, 2, {operation("a", 2, "announced")})});
  EXPECT_EQ(text.find("did not submit"), text.npos) << text;
}

TEST(Explain, TellsRanksThatWaitForEachOther) {
  const std::string text = explain({record(0, 2, {operation("a", 1, "announced")}),
                                    record(1, 2, {operation("b", 1, "announced")})});
  expect_in(text,
            "1. Rank 0 and rank 1 wait for each other: rank 0 for 'a' (allreduce of float32 [4]); "
            "rank 1 for 'b'");
  expect_in(text, "What to do: call them in the same order on all ranks");
  EXPECT_EQ(text.find("2. "), text.npos) << text;
}

TEST(Explain, TellsWhoseOperationTheOthersNeverCalled) {
  const std::string text =
      explain({record(0, 2, {operation("grad", 3, "done"), operation("metric", 1, "announced")}),
               record(1, 2, {operation("grad", 4, "announced")})});
  expect_in(text,
            "What to do: only rank 0 ever called 'metric', and rank 1 called 'grad' once more");
}

TEST(Explain, AnExceptionIsToldBeforeWhatItCaused) {
  FlightRecord failed = record(1, 2, {operation("grad", 3, "done")});
  failed.note = "ValueError: 17 (train.py:3)";
  failed.reason = "shutdown";
  const std::string text = explain({record(0, 2, {operation("grad", 4, "announced")}), failed});
  expect_in(text, "1. Rank 1 ended with an exception: ValueError: 17 (train.py:3)\n");
  expect_in(text, "2. Rank 1 did not submit 'grad'");
}

TEST(Explain, ARankThatEndedEarlyIsToldToRunAsManySteps) {
  FlightRecord ended = record(1, 2, {operation("grad", 3, "done")});
  ended.reason = "shutdown";
  FlightOperation failed = operation("grad", 4, "failed");
  failed.code = "peer left";
  const std::string text = explain({record(0, 2, {failed}), ended});
  expect_in(text, "rank 1 submitted it 3 times, rank 0 4 times");
  expect_in(text, "its program has ended");
  expect_in(text, "What to do: give all ranks equally many steps");
}

TEST(Explain, NamesRanksWithoutARecord) {
  const std::string text = explain({record(0, 3, {operation("a", 1, "announced")})});
  expect_in(text, "Ranks 1, 2 left no record");
  expect_in(text, "Ranks 1, 2 did not submit 'a'");
}

TEST(Explain, LooksOnlyAtMembersOfAProcessSet) {
  FlightOperation in_set = operation("a", 1, "announced");
  in_set.set = 3;
  FlightRecord first = record(0, 3, {in_set});
  first.sets[3] = {0, 2};
  const std::string text = explain({first, record(1, 3, {}), record(2, 3, {})});
  expect_in(text, "Rank 2 did not submit 'a' (allreduce of float32 [4], process set 3)");
  expect_in(text, "rank 2 never submitted this name, and nothing else");
}

TEST(Explain, TellsOneErrorOnceWithAllItsRanks) {
  FlightOperation failed = operation("a", 1, "failed");
  failed.code = "mismatch";
  failed.error = "'a': ranks disagree";
  expect_in(explain({record(0, 2, {failed}), record(1, 2, {failed})}),
            "1. Mismatch: 'a': ranks disagree (on ranks 0, 1)\n");
}

TEST(FlightRecord, RefusesOtherTextAndForgivesWhatIsMissing) {
  EXPECT_FALSE(parse_flight_record("{").ok());
  EXPECT_FALSE(parse_flight_record("{\"format\":\"other\"}").ok());
  EXPECT_FALSE(parse_flight_record("{\"format\":\"hora-flight\",\"rank\":2,\"size\":2}").ok());
  const auto least =
      parse_flight_record("{\"format\":\"hora-flight\",\"rank\":1,\"size\":2,\"operations\":[{}]}");
  ASSERT_TRUE(least.ok());
  EXPECT_EQ(least.value().operations.size(), 1u);
}

TEST(FlightRecord, OfSeveralJobsInOneFolderTheLatestCounts) {
  const std::filesystem::path folder = testing::TempDir() + "flight_records_test";
  std::filesystem::create_directories(folder);
  const auto write = [&](int rank, const std::string& job, int age) {
    const auto path = folder / fmt::format("rank{}.json", rank);
    std::ofstream(path) << fmt::format(
        R"({{"format":"hora-flight","rank":{},"size":3,"job":"{}"}})", rank, job);
    std::filesystem::last_write_time(
        path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(age));
  };
  write(0, "new", 1);
  write(1, "new", 0);
  write(2, "old", 2);
  const auto records = read_flight_records(folder.string());
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(records.ok()) << records.status().message();
  ASSERT_EQ(records.value().size(), 2u);
  EXPECT_EQ(records.value()[1].job, "new");
  EXPECT_FALSE(read_flight_records(folder.string()).ok());
}

}  // namespace
}  // namespace hora
