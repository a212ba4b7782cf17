// Goal: a store hands values to whoever waits, and no client can harm the server or another client.
// Method: the same laws over the memory and the socket store; raw sockets that speak nonsense.
#include "runtime/store.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "ops/descriptor.h"
#include "runtime/store_wire.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{20'000}, kShort{50};

/// A private directory with a server in it.
class Served {
 public:
  Served() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    auto server = StoreServer::start(path());
    EXPECT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
  }
  ~Served() {
    server_.reset();
    ::rmdir(folder_.c_str());
  }
  std::string path() const { return folder_ + "/store"; }
  std::string address() const { return server_->address(); }
  void stop() { server_.reset(); }

  std::shared_ptr<Store> connect() const {
    auto store = connect_store("unix:" + path(), kLong);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return store.ok() ? store.value() : nullptr;
  }

  Descriptor raw() const {
    const auto where = store_wire::socket_address("unix:" + path());
    Descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*where), sizeof(*where)),
              0);
    return socket;
  }

 private:
  std::string folder_ = "/tmp/hora-test-XXXXXX";
  std::unique_ptr<StoreServer> server_;
};

class EveryStore : public testing::TestWithParam<bool> {
 protected:
  EveryStore() {
    const bool socket = GetParam();
    if (socket) served_ = std::make_unique<Served>();
    first_ = socket ? served_->connect() : make_memory_store();
    second_ = socket ? served_->connect() : first_;
  }
  std::unique_ptr<Served> served_;
  std::shared_ptr<Store> first_, second_;
};
INSTANTIATE_TEST_SUITE_P(Stores, EveryStore, testing::Bool(),
                         [](const auto& kind) { return kind.param ? "Socket" : "Memory"; });

TEST_P(EveryStore, GivesWhatAnotherRankSet) {
  const std::string binary("a\0b\xff", 4);
  ASSERT_TRUE(first_->set("key", binary).ok());
  const auto value = second_->get("key", kLong);
  ASSERT_TRUE(value.ok()) << value.status().message();
  EXPECT_EQ(value.value(), binary);
  ASSERT_TRUE(first_->set("empty", "").ok());
  EXPECT_EQ(second_->get("empty", kLong).value(), "");
}

TEST_P(EveryStore, AGetWaitsForALaterSetAndDoesNotHoldUpTheSameStore) {
  std::vector<std::string> got(8);
  std::vector<std::thread> waiters;
  for (std::string& value : got)
    waiters.emplace_back([&] { value = first_->get("late", kLong).value(); });
  EXPECT_FALSE(first_->get("never", kShort).ok());  // meanwhile the others wait
  ASSERT_TRUE(first_->set("late", "now").ok());
  for (std::thread& waiter : waiters) waiter.join();
  for (const std::string& value : got) EXPECT_EQ(value, "now");
}

TEST_P(EveryStore, ATimeoutNamesTheKeyAndLeavesTheStoreUsable) {
  const auto value = first_->get("missing/rank 3", kShort);
  ASSERT_EQ(value.status().code(), Code::kTimeout);
  EXPECT_NE(value.status().message().find("missing/rank 3"), std::string::npos);
  ASSERT_TRUE(second_->set("missing/rank 3", "x").ok());
  EXPECT_EQ(first_->get("missing/rank 3", kLong).value(), "x");
}

TEST_P(EveryStore, AKeyIsSetOnce) {
  ASSERT_TRUE(first_->set("key", "one").ok());
  EXPECT_TRUE(second_->set("key", "one").ok());
  EXPECT_EQ(second_->set("key", "two").code(), Code::kInvalidArgument);
  EXPECT_EQ(first_->get("key", kLong).value(), "one");
}

TEST(SocketStore, CarriesLargeValues) {
  const Served served;
  const auto store = served.connect();
  const std::string large(store_wire::kMaxValue, 'v');
  const std::string key(store_wire::kMaxKey, 'k');
  ASSERT_TRUE(store->set(key, large).ok());
  EXPECT_EQ(store->get(key, kLong).value(), large);
  EXPECT_EQ(store->set("k", large + "v").code(), Code::kInvalidArgument);
  EXPECT_EQ(store->set(key + "k", "v").code(), Code::kInvalidArgument);
  EXPECT_EQ(store->get(key + "k", kLong).status().code(), Code::kInvalidArgument);
}

TEST(SocketStore, IsFullAtItsLimitAndStillAnswers) {
  const Served served;
  const auto store = served.connect();
  const std::string large(store_wire::kMaxValue, 'v');
  Status status;
  int kept = 0;
  for (; kept < 100 && status.ok(); ++kept) status = store->set(std::to_string(kept), large);
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_LE(kept, 48);
  EXPECT_EQ(store->get("0", kLong).value(), large);
}

TEST(SocketStore, WaitsForAServerThatStartsLater) {
  std::string folder = "/tmp/hora-test-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  Result<std::shared_ptr<Store>> store = Status(Code::kInternal, "not tried");
  std::thread client([&] { store = connect_store("unix:" + folder + "/store", kLong); });
  auto server = StoreServer::start(folder + "/store");
  client.join();
  ASSERT_TRUE(store.ok()) << store.status().message();
  EXPECT_TRUE(store.value()->set("k", "v").ok());
  server.value().reset();
  EXPECT_EQ(::rmdir(folder.c_str()), 0) << "the socket is still there";
}

TEST(SocketStore, GivesUpOnAServerThatNeverStarts) {
  EXPECT_EQ(connect_store("unix:/tmp/hora-test-nobody", kShort).status().code(),
            Code::kUnavailable);
  EXPECT_EQ(connect_store("tcp:1.2.3.4", kShort).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(connect_store("unix:/" + std::string(200, 'x'), kShort).status().code(),
            Code::kInvalidArgument);
}

TEST(SocketStore, WhoWaitsWhenTheServerEndsIsTold) {
  Served served;
  const auto store = served.connect();
  // A waiter of our own shows when the server has both; it answers in order of arrival.
  Status status;
  std::thread waiter([&] { status = store->get("key", kLong).status(); });
  EXPECT_FALSE(served.connect()->get("other", kShort).ok());
  served.stop();
  waiter.join();
  EXPECT_EQ(status.code(), Code::kUnavailable) << status.message();
  EXPECT_EQ(store->set("key", "value").code(), Code::kUnavailable);
}

TEST(StoreServer, OnlyItsUserMayUseTheSocket) {
  const Served served;
  struct stat info {};
  ASSERT_EQ(::stat(served.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0077, 0u);
}

TEST(StoreServer, RefusesAPathThatIsTaken) {
  const Served served;
  EXPECT_EQ(StoreServer::start(served.path()).status().code(), Code::kUnavailable);
  EXPECT_EQ(StoreServer::start("relative").status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(served.connect()->set("k", "v").ok());
}

/// The server closes `socket` without an answer.
void expect_cut_off(const Descriptor& socket) {
  pollfd entry{socket.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, static_cast<int>(kLong.count())), 1);
  char byte;
  EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0);
}

TEST(StoreServer, CutsOffWhoDoesNotSpeakTheProtocol) {
  const Served served;
  const std::vector<std::string> bad = {
      store_wire::header(0, 9),                                // no such kind
      store_wire::header(1, store_wire::kSet) + "x",           // half a key's length
      store_wire::header(2, store_wire::kSet) + "\xff\x01",    // a key longer than the body
      std::string("\xff\xff\xff\xff\x01", 5),                  // a length beyond the limit
      std::string("\0\0\0\0\0", 5),                            // a length of nothing
      store_wire::header(1, store_wire::kGet) + "k" + "more",  // two requests at once
      store_wire::header(5000, store_wire::kGet) + std::string(5000, 'k'),  // too long a key
  };
  for (const std::string& bytes : bad) {
    const Descriptor socket = served.raw();
    ASSERT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    expect_cut_off(socket);
  }
  const Descriptor impatient = served.raw();
  const std::string get = store_wire::header(1, store_wire::kGet) + "k";
  ASSERT_GT(::send(impatient.get(), get.data(), get.size(), MSG_NOSIGNAL), 0);
  EXPECT_FALSE(served.connect()->get("sync", kShort).ok());
  ASSERT_GT(::send(impatient.get(), get.data(), get.size(), MSG_NOSIGNAL), 0);
  expect_cut_off(impatient);
  EXPECT_TRUE(served.connect()->set("k", "v").ok());
}

TEST(StoreServer, SurvivesRandomBytesAndHalfFrames) {
  const Served served;
  const auto store = served.connect();
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const Descriptor socket = served.raw();
    std::string bytes(random() % 300, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    // A plausible beginning leads deeper into the parser.
    if (round % 2 == 0) bytes.insert(0, store_wire::header(random() % 400, 1 + random() % 2));
    (void)::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  ASSERT_TRUE(store->set("after", "all").ok());
  EXPECT_EQ(served.connect()->get("after", kLong).value(), "all");
}

TEST(StoreServer, ASlowClientHoldsUpNobody) {
  const Served served;
  const auto store = served.connect();
  const std::string large(store_wire::kMaxValue, 'v');
  ASSERT_TRUE(store->set("large", large).ok());
  const std::string get = store_wire::header(5, store_wire::kGet) + "large";
  const Descriptor never_reads = served.raw();
  ASSERT_GT(::send(never_reads.get(), get.data(), get.size(), MSG_NOSIGNAL), 0);
  const Descriptor byte_by_byte = served.raw();
  for (const char byte : get) {
    ASSERT_EQ(::send(byte_by_byte.get(), &byte, 1, MSG_NOSIGNAL), 1);
    ASSERT_EQ(store->get("large", kLong).value().size(), large.size());
  }
  std::string answer(store_wire::kHeader, '\0');
  ASSERT_EQ(::recv(byte_by_byte.get(), answer.data(), answer.size(), MSG_WAITALL),
            static_cast<ssize_t>(answer.size()));
  EXPECT_EQ(store_wire::length_in(answer), large.size() + 1);
}

TEST(StoreServer, ServesManyRanksAtOnce) {
  const Served served;
  constexpr int kRanks = 16, kKeys = 20;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto store = served.connect();
      for (int key = 0; key < kKeys; ++key) {
        const std::string name = std::to_string(key) + "/";
        EXPECT_TRUE(store->set(name + std::to_string(rank), std::to_string(rank * key)).ok());
        const int next = (rank + 1) % kRanks;
        EXPECT_EQ(store->get(name + std::to_string(next), kLong).value(),
                  std::to_string(next * key));
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace
}  // namespace hora
