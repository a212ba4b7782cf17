// Goal: a process and the launcher understand each other through the store, and no wait outlives
// its reason. Method: a real server whose watch plays the launcher.
#include "hora/membership.h"

#include <stdlib.h>
#include <unistd.h>

#include <future>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/store.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{20'000}, kShort{20};

class MembershipTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    auto server = StoreServer::start(folder_ + "/store",
                                     [this](std::string_view key) { keys_.emplace_back(key); });
    ASSERT_TRUE(server.ok());
    server_ = std::move(server).value();
    launcher_ = connect_store(server_->address(), kLong).value();
    Config config;
    config.store = server_->address();
    config.worker = 7;
    member_ = Membership::open(config).value();
  }
  void TearDown() override {
    member_.reset();
    launcher_.reset();
    server_.reset();
    ::rmdir(folder_.c_str());
  }

  std::string folder_ = "/tmp/hora-test-XXXXXX";
  std::vector<std::string> keys_;  // of the server's thread; read after a reply that came later
  std::unique_ptr<StoreServer> server_;
  std::shared_ptr<Store> launcher_;
  std::unique_ptr<Membership> member_;
};

TEST_F(MembershipTest, EveryAskIsSeenAndHasAnAnswerOfItsOwn) {
  ASSERT_TRUE(member_->ask().ok());
  EXPECT_EQ(member_->answer(kShort).status().code(), Code::kTimeout);
  ASSERT_TRUE(
      launcher_->set(membership::answer_key({7, 1}), membership::text_of({3, 1, 4, 1, 2, 0, 2}))
          .ok());
  EXPECT_EQ(member_->answer(kLong).value(), (Place{3, 1, 4, 1, 2, 0, 2}));
  ASSERT_TRUE(member_->ask().ok());
  ASSERT_TRUE(launcher_->set(membership::answer_key({7, 2}), membership::kLeave).ok());
  EXPECT_EQ(member_->answer(kLong).status().code(), Code::kShutdown);
  std::vector<membership::Ask> asks;
  for (const std::string& key : keys_)
    if (const auto ask = membership::parse_ask(key)) asks.push_back(*ask);
  EXPECT_EQ(asks, (std::vector<membership::Ask>{{7, 1}, {7, 2}}));
}

TEST_F(MembershipTest, AChangeIsToldToWhoWaitsForIt) {
  auto waits = std::async(std::launch::async, [this] { return member_->await_change(5); });
  ASSERT_TRUE(launcher_->set(membership::change_key(5), membership::kChange).ok());
  EXPECT_TRUE(waits.get());
  member_->leave(5);  // too late, and no harm
}

TEST_F(MembershipTest, LeavingOrTheEndOfTheLauncherEndsTheWaitForAChange) {
  auto waits = std::async(std::launch::async, [this] { return member_->await_change(1); });
  member_->leave(1);
  EXPECT_FALSE(waits.get());
  auto waits_on = std::async(std::launch::async, [this] { return member_->await_change(2); });
  server_.reset();
  EXPECT_FALSE(waits_on.get());
  EXPECT_EQ(member_->ask().code(), Code::kUnavailable);
}

TEST(MembershipText, WhatIsNoAskOrPlaceIsRefused) {
  for (const char* key : {"", "elastic/ask/", "elastic/ask/1", "elastic/ask/1/", "elastic/ask/a/1",
                          "elastic/ask/1/2/3", "epoch1/member/0"})
    EXPECT_FALSE(membership::parse_ask(key)) << key;
  for (const char* text : {"", "1 0", "1 0 2 3", "1 2 2", "x 0 1", "leave"})
    EXPECT_FALSE(membership::parse_place(text)) << text;
  EXPECT_EQ(membership::parse_ask(membership::ask_key({12, 34})), (membership::Ask{12, 34}));
}

}  // namespace
}  // namespace hora
