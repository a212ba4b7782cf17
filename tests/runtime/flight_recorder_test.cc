// Goal: a flight record tells the last operations, where each stands, and why it failed.
// Method: operations of a pool, moved along by hand; the JSON is compared as text.
#include "runtime/flight_recorder.h"

#include <gtest/gtest.h>

#include "runtime/name_table.h"

namespace hora {
namespace {

class FlightRecorderTest : public testing::Test {
 protected:
  Operation& submit(const std::string& name) {
    Operation& operation = *operations_.take();
    operation.request.name = name;
    EXPECT_TRUE(names_.begin(operation).ok());
    operation.submission.signature.shapes = {{2, 3}};
    operation.submitted_at = 1;
    recorder_.taken(operation);
    return operation;
  }

  void end(Operation& operation, Status status = {}) {
    operation.status = std::move(status);
    recorder_.done(operation, 9);
    names_.end(operation.name);
    operation.complete();
    operations_.put(&operation);
  }

  std::string json() {
    World world;
    world.members.resize(1);
    return recorder_.json(
        {world,
         "job",
         "asked for",
         "",
         "",
         {},
         0,
         [](SetId) { return nullptr; },
         [](const Submission& submission) { return submission.name == "lingers"; }},
        operations_);
  }

  static size_t count(const std::string& text, const std::string& part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
    return found;
  }

  OperationPool operations_;
  NameTable names_;
  FlightRecorder recorder_;
};

TEST_F(FlightRecorderTest, KeepsTheLastOfManyAndCountsRoundsOfEachName) {
  for (int i = 0; i < 1003; ++i) end(submit(i % 2 ? "odd" : "even"));
  const std::string text = json();
  EXPECT_EQ(count(text, "\"state\":\"done\""), FlightRecorder::kOperations);
  EXPECT_EQ(count(text, "{\"number\":3,"), 0u);
  EXPECT_EQ(count(text, "{\"number\":4,\"round\":2,\"name\":\"odd\""), 1u);
  EXPECT_EQ(count(text, "{\"number\":1003,\"round\":502,\"name\":\"even\""), 1u);
}

TEST_F(FlightRecorderTest, TellsWhereEachOpenOperationStands) {
  submit("lingers");
  submit("announced");
  FlightRecorder::agreed(submit("agreed"), 7, 5);
  Operation& moving = submit("moving");
  FlightRecorder::agreed(moving, 8, 5);
  FlightRecorder::agreed(moving, 9, 6);  // its second slice
  recorder_.begun(8, 1);
  const std::string text = json();
  for (const auto& [name, state] : {std::pair("lingers", "submitted"),
                                    {"announced", "announced"},
                                    {"agreed", "agreed"},
                                    {"moving", "moving"}}) {
    const size_t at = text.find(std::string("\"name\":\"") + name);
    ASSERT_NE(at, text.npos) << text;
    EXPECT_EQ(text.substr(text.find("\"state\":", at)).find(std::string("\"state\":\"") + state),
              0u)
        << text;
  }
  EXPECT_EQ(count(text, "\"agreed\":5,\"ended\":0,\"shape\":[2,3]}"), 2u) << text;
}

TEST_F(FlightRecorderTest, TellsAFailureInFull) {
  end(submit("x\"\n"), Status(Code::kMismatch, "ranks \\ disagree"));
  const std::string text = json();
  EXPECT_EQ(count(text, R"("name":"x\"\u000a")"), 1u) << text;
  EXPECT_EQ(count(text, R"("state":"failed","submitted":1,"agreed":0,"ended":9,"shape":[2,3],)"
                        R"("code":"mismatch","error":"ranks \\ disagree"})"),
            1u)
      << text;
}

// Whoever takes it again may still be filling it in while the driver looks at all operations.
TEST_F(FlightRecorderTest, AnOperationThatHasEndedHasNothingLeftOfTheDrivers) {
  Operation& operation = submit("a");
  operation.handed = operation.all_handed = true;
  operation.running = 1;
  operation.complete();
  EXPECT_FALSE(operation.handed || operation.all_handed);
  EXPECT_EQ(operation.running, 0u);
  EXPECT_EQ(operation.flight.number, 0u);
}

TEST_F(FlightRecorderTest, AnOperationThatWasPutBackIsNotOpen) {
  end(submit("a"));
  Operation& again = *operations_.take();  // submitted, but the driver has not seen it yet
  EXPECT_EQ(again.flight.number, 0u);
  EXPECT_EQ(count(json(), "\"name\":"), 1u);
}

TEST_F(FlightRecorderTest, AFolderThatCannotBeMadeIsAnError) {
  const Status saved = FlightRecorder::save("/dev/null/folder", 3, "{}");
  EXPECT_EQ(saved.code(), Code::kUnavailable);
  EXPECT_NE(saved.message().find("/dev/null/folder/rank3.json"), std::string::npos);
}

}  // namespace
}  // namespace hora
