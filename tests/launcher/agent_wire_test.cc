// What horarun and its agents send: every message comes out as it went in, however the bytes are
// cut, and bytes that are no messages are refused without reading or allocating what they claim.

#include "launcher/agent_wire.h"

#include <random>

#include <gtest/gtest.h>

namespace hora::agent_wire {
namespace {

std::vector<Message> one_of_each() {
  return {Hello{kProtocol, "0.1"},
          Task{"/tmp", "tcp://10.0.0.1:1", 2, {{{"python", "-c", ""}, {"A=1", "B="}}, {}}},
          Ready{},
          Refused{"no"},
          Start{1, {"HORA_WORKER=7"}},
          Output{3, 1, "text\n"},
          Ended{3, 4711, 9},
          Record{"rank.0.json", std::string("\0\1", 2)},
          Kill{2, 15},
          Finish{},
          Alive{},
          Inspect{"job", "secret"},
          Inspected{"tcp://10.0.0.1:1", 8, {"files", ""}},
          AskTime{},
          Time{uint64_t{1} << 60},
          Reach{2, "tcp://10.0.0.1:1"},
          Reached{2, "no", 1, 2}};
}

TEST(AgentWire, MessagesComeOutAsTheyWentInHoweverTheyAreCut) {
  std::string bytes = "Welcome to node1!\n" + std::string(kGreeting);
  for (const Message& message : one_of_each()) bytes += encode(message);
  for (const size_t piece : {size_t{1}, size_t{7}, bytes.size()}) {
    Inbox inbox(true);
    std::vector<Message> got;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      inbox.feed(std::string_view(bytes).substr(at, piece));
      for (;;) {
        auto next = inbox.next();
        ASSERT_TRUE(next.ok()) << next.status().message();
        if (!next.value()) break;
        got.push_back(*next.value());
      }
    }
    ASSERT_EQ(got.size(), one_of_each().size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(encode(got[i]), encode(one_of_each()[i]));
  }
}

TEST(AgentWire, ATaskKeepsItsFields) {
  Inbox inbox(false);
  inbox.feed(encode(one_of_each()[1]));
  const Task task = std::get<Task>(*inbox.next().value());
  EXPECT_EQ(task.folder, "/tmp");
  EXPECT_EQ(task.store, "tcp://10.0.0.1:1");
  ASSERT_EQ(task.ranks.size(), 2u);
  EXPECT_EQ(task.ranks[0].arguments, (std::vector<std::string>{"python", "-c", ""}));
  EXPECT_EQ(task.ranks[0].environment, (std::vector<std::string>{"A=1", "B="}));
}

TEST(AgentWire, RefusesWhatIsNoMessage) {
  const std::string hello = encode(Hello{kProtocol, "0.1"});
  std::string unknown = hello, longer = hello, shorter = hello, huge = hello;
  unknown[4] = 99;
  longer[0] = static_cast<char>(hello.size() - 4 + 1);
  longer += 'x';  // more than its fields
  shorter[0] = static_cast<char>(hello.size() - 4 - 1);
  huge[3] = 0x7f;
  for (const std::string& bytes : {unknown, longer, shorter, huge, std::string(4, '\0')}) {
    Inbox inbox(false);
    inbox.feed(bytes);
    EXPECT_EQ(inbox.next().status().code(), Code::kInvalidArgument);
  }
}

TEST(AgentWire, AListOfMoreItemsThanBytesAllocatesNothing) {
  std::string bytes = encode(Task{});
  bytes[bytes.size() - 1] = bytes[bytes.size() - 2] = '\xff';
  Inbox inbox(false);
  inbox.feed(bytes);
  EXPECT_FALSE(inbox.next().ok());
}

TEST(AgentWire, GivesUpOnSomebodyWhoNeverGreets) {
  Inbox inbox(true);
  inbox.feed("Please change your password:");
  EXPECT_FALSE(inbox.next().value().has_value());
  EXPECT_EQ(inbox.noise(), "Please change your password:");
  inbox.feed(std::string(kMaxNoise, 'x'));
  EXPECT_FALSE(inbox.next().ok());
}

TEST(AgentWire, SurvivesChangedBytes) {
  std::mt19937 random(1);
  std::string good;
  for (const Message& message : one_of_each()) good += encode(message);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (int changes = 0; changes < 3; ++changes)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    Inbox inbox(false);
    inbox.feed(bytes.substr(0, random() % bytes.size()));
    for (;;) {
      const auto next = inbox.next();
      if (!next.ok() || !next.value()) break;
    }
  }
}

}  // namespace
}  // namespace hora::agent_wire
