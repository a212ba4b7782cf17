// Goal: a store hands values to whoever waits, and no client can harm the server or another client.
// Method: the same laws over the memory and the socket store; raw sockets that speak nonsense.
#include "runtime/store.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ops/descriptor.h"
#include "ops/tcp/address.h"
#include "runtime/store_wire.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{20'000}, kShort{50};

/// A private directory with a server in it.
class Served {
 public:
  explicit Served(const StoreServer::Network* network = nullptr) {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    auto server = StoreServer::start(path(), {}, network);
    EXPECT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
  }
  ~Served() {
    server_.reset();
    ::rmdir(folder_.c_str());
  }
  std::string path() const { return folder_ + "/store"; }
  std::string address() const { return server_->address(); }
  std::string network_address() const { return server_->network_address(); }
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

const StoreKey kKey{"a job", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};

StoreServer::Network on_loopback() {
  StoreServer::Network network;
  network.key = kKey;
  network.bind = "127.0.0.1";
  network.handshake_timeout = milliseconds(500);
  return network;
}

std::shared_ptr<Store> connect_over_tcp(const Served& served) {
  auto store = connect_store(served.network_address(), kLong, kKey);
  EXPECT_TRUE(store.ok()) << store.status().message();
  return store.ok() ? store.value() : nullptr;
}

enum class Kind { kMemory, kSocket, kTcp, kBoth };

class EveryStore : public testing::TestWithParam<Kind> {
 protected:
  EveryStore() {
    const Kind kind = GetParam();
    const StoreServer::Network network = on_loopback();
    if (kind == Kind::kMemory) {
      first_ = second_ = make_memory_store();
      return;
    }
    served_ = std::make_unique<Served>(kind == Kind::kSocket ? nullptr : &network);
    first_ = kind == Kind::kTcp ? connect_over_tcp(*served_) : served_->connect();
    second_ = kind == Kind::kSocket ? served_->connect() : connect_over_tcp(*served_);
  }
  std::unique_ptr<Served> served_;
  std::shared_ptr<Store> first_, second_;
};
std::string name_of(const testing::TestParamInfo<Kind>& kind) {
  constexpr const char* kNames[] = {"Memory", "Socket", "Tcp", "Both"};
  return kNames[static_cast<size_t>(kind.param)];
}
INSTANTIATE_TEST_SUITE_P(Stores, EveryStore,
                         testing::Values(Kind::kMemory, Kind::kSocket, Kind::kTcp, Kind::kBoth),
                         name_of);

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

Descriptor connect_plainly(const Served& served) {
  const auto where = tcp::resolve(served.network_address().substr(6));
  EXPECT_TRUE(where.ok());
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(socket.get(), where.value()[0].get(), where.value()[0].bytes), 0);
  return socket;
}

/// Blocks until the other end hangs up; how many bytes came before.
size_t bytes_until_the_end(const Descriptor& socket) {
  char bytes[256];
  size_t count = 0;
  for (ssize_t got; (got = ::recv(socket.get(), bytes, sizeof(bytes), 0)) > 0;)
    count += static_cast<size_t>(got);
  return count;
}

TEST(StoreOverTcp, RefusesAnotherSecretAtOnceAndSaysWhy) {
  const StoreServer::Network network = on_loopback();
  const Served served(&network);
  StoreKey wrong = kKey;
  wrong.secret[0] = 'f';
  const auto refused = connect_store(served.network_address(), kLong, wrong);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::kMismatch);
  EXPECT_EQ(refused.status().message(),
            "store: refused 5 times in a row by " + served.network_address().substr(6) +
                ": it refuses this rank's proof: its HORA_SECRET is another, or the rank is there "
                "already");
}

TEST(StoreOverTcp, KeepsWhatItIsToldWhereConnectionsAreEncrypted) {
  StoreServer::Network network = on_loopback();
  network.key.tls = true;
  Served served(&network);
  const auto store = connect_store(served.network_address(), kLong, network.key);
  ASSERT_TRUE(store.ok()) << store.status().message();
  const std::string large(1 << 20, 'x');
  EXPECT_TRUE(store.value()->set("large", large).ok());
  std::thread setter([&] {
    const auto other = connect_store(served.network_address(), kLong, network.key);
    EXPECT_TRUE(other.ok() && other.value()->set("late", "value").ok());
  });
  EXPECT_EQ(store.value()->get("late", kLong).value(), "value");
  setter.join();
  EXPECT_EQ(store.value()->get("large", kLong).value(), large);
  served.stop();
  EXPECT_EQ(store.value()->get("large", kLong).status().code(), Code::kUnavailable);
}

TEST(StoreOverTcp, RefusesWhoDoesNotEncryptAlikeOrHasAnotherSecretAndSaysWhy) {
  for (const bool encrypts : {false, true}) {
    StoreServer::Network network = on_loopback();
    network.key.tls = encrypts;
    const Served served(&network);
    StoreKey key = network.key;
    key.tls = !encrypts;
    const auto unlike = connect_store(served.network_address(), kLong, key);
    ASSERT_FALSE(unlike.ok());
    EXPECT_EQ(unlike.status().code(), Code::kMismatch);
    EXPECT_TRUE(unlike.status().message().ends_with(
        encrypts ? "it encrypts: HORA_TLS=1 is set there and not here"
                 : "it hung up on this rank's TLS: is HORA_TLS=1 set there, too?"))
        << unlike.status().message();
    if (!encrypts) continue;
    key = network.key;
    key.secret[0] = 'f';
    const auto refused = connect_store(served.network_address(), kLong, key);
    ASSERT_FALSE(refused.ok());
    EXPECT_TRUE(refused.status().message().ends_with(": its HORA_SECRET is another"))
        << refused.status().message();
  }
}

TEST(StoreOverTcp, NeedsASecretOnBothSides) {
  StoreServer::Network network = on_loopback();
  const Served served(&network);
  EXPECT_EQ(connect_store(served.network_address(), kLong).status().code(), Code::kInvalidArgument);
  network.key.secret = "";
  EXPECT_EQ(StoreServer::start("@hora-test-no-secret", {}, &network).status().code(),
            Code::kInvalidArgument);
}

TEST(StoreOverTcp, AFalseServerIsNotTrusted) {
  // It accepts everybody, and would answer any question.
  StoreServer::Network network = on_loopback();
  network.key.secret[5] = 'a';
  const Served impostor(&network);
  const auto refused = connect_store(impostor.network_address(), kShort, kKey);
  EXPECT_FALSE(refused.ok());
}

TEST(StoreOverTcp, TriesSeveralAddressesAndGivesUpInTimeNamingThemAll) {
  const StoreServer::Network network = on_loopback();
  const Served served(&network);
  const std::string good = served.network_address().substr(6);
  EXPECT_TRUE(connect_store("tcp://127.0.0.1:1," + good, kLong, kKey).ok());
  const auto refused = connect_store("tcp://127.0.0.1:1,127.0.0.1:2", kShort, kKey);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("127.0.0.1:1: Connection refused; 127.0.0.1:2: "),
            std::string::npos)
      << refused.status().message();
  EXPECT_EQ(connect_store("tcp://", kShort, kKey).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(connect_store("tcp://here", kShort, kKey).status().code(), Code::kInvalidArgument);
}

TEST(StoreOverTcp, AServerOutOfReachIsNotTakenForAKeyThatNobodySet) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Descriptor mine(ends[0]);
  const pid_t child = ::fork();
  if (child == 0) {
    mine.reset();
    {
      const StoreServer::Network network = on_loopback();
      const Served served(&network);
      const std::string where = served.network_address();
      char end;
      if (::write(ends[1], where.data(), where.size()) > 0) (void)!::read(ends[1], &end, 1);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  char address[256] = {};
  ASSERT_GT(::read(mine.get(), address, sizeof(address) - 1), 0);
  const auto store = connect_store(address, kLong, kKey);
  ASSERT_TRUE(store.ok()) << store.status().message();
  const auto hasty = connect_store(address, kLong, kKey);
  ASSERT_TRUE(hasty.ok()) << hasty.status().message();
  ASSERT_TRUE(store.value()->set("there", "before").ok());
  constexpr milliseconds kWait{600};
  EXPECT_EQ(store.value()->get("key", kWait).status().code(), Code::kTimeout);
  ::kill(child, SIGSTOP);
  const Status stopped = store.value()->get("key", kWait).status();
  EXPECT_EQ(stopped.code(), Code::kUnavailable) << stopped.message();
  EXPECT_NE(stopped.message().find(address), std::string::npos) << stopped.message();
  const Status again = store.value()->set("other", "value");
  EXPECT_EQ(again.message(), stopped.message()) << "it waited once more";
  // It goes on while a rank asks again and again with little patience.
  std::thread waker([child] {
    ::usleep(200'000);
    ::kill(child, SIGCONT);
  });
  constexpr milliseconds kSlice{20};
  std::string value;
  for (int i = 0; i < 500 && value.empty(); ++i) {
    const auto got = hasty.value()->get("there", kSlice);
    if (got.ok()) value = got.value();
    EXPECT_TRUE(got.ok() || got.status().code() == Code::kTimeout) << got.status().message();
  }
  EXPECT_EQ(value, "before");
  waker.join();
  mine.reset();
  ::waitpid(child, nullptr, 0);
}

TEST(StoreOverTcp, StrangersAreCutOffAndToldOnceAndOthersGoOn) {
  std::mutex mutex;
  std::vector<std::string> warnings;
  StoreServer::Network network = on_loopback();
  network.warn = [&](const std::string& text) {
    const std::lock_guard lock(mutex);
    warnings.push_back(text);
  };
  Served served(&network);
  const auto store = connect_over_tcp(served);
  std::vector<Descriptor> stalling;
  for (int i = 0; i < 100; ++i) stalling.push_back(connect_plainly(served));
  const Descriptor garbage = connect_plainly(served);
  ASSERT_GT(::send(garbage.get(), std::string(100, 'x').data(), 100, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(store->set("key", "value").ok());
  EXPECT_EQ(connect_over_tcp(served)->get("key", kLong).value(), "value");
  EXPECT_EQ(bytes_until_the_end(garbage), 0u);
  for (const Descriptor& each : stalling) EXPECT_EQ(bytes_until_the_end(each), 0u);
  // One that asks in the store's words before it has proved anything.
  const Descriptor early = connect_plainly(served);
  const std::string request = store_wire::header(3, store_wire::kGet) + "key";
  ASSERT_GT(::send(early.get(), request.data(), request.size(), MSG_NOSIGNAL), 0);
  EXPECT_EQ(bytes_until_the_end(early), 0u);
  served.stop();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(warnings[0].starts_with("the store cut off a connection from 127.0.0.1:"));
}

}  // namespace
}  // namespace hora
