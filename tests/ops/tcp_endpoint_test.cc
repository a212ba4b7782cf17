// Goal: ranks of one job find each other over TCP, and nobody else can get between.
// Method: endpoints of several ranks in this process on loopback; strangers are plain sockets that
// do what they should not.
#include <poll.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "ops/tcp/endpoint.h"

namespace hora::tcp {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kSoon{20'000};

Secret secret() {
  Secret secret{};
  secret.fill(7);
  return secret;
}

/// Warnings of an endpoint, from its thread.
struct Heard {
  std::mutex mutex;
  std::vector<std::string> warnings;
  std::vector<std::string> all() {
    const std::lock_guard lock(mutex);
    return warnings;
  }
};

Endpoint::Options options_of(Rank rank, const std::string& bind = "127.0.0.1") {
  Endpoint::Options options;
  options.self = {job_of("a job"), 1, rank};
  options.secret = secret();
  options.bind = bind;
  options.handshake_timeout = milliseconds(500);
  options.connect_timeout = milliseconds(20'000);
  return options;
}

std::shared_ptr<Endpoint> open(const Endpoint::Options& options) {
  auto opened = Endpoint::open(options);
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  return opened.ok() ? opened.value() : nullptr;
}

/// What `socket` says within the time of a test; empty: nothing, or it ended.
std::string read_some(Socket& socket, size_t bytes) {
  std::string text(bytes, '\0');
  size_t have = 0;
  while (have < bytes) {
    const ssize_t got = socket.read(text.data() + have, bytes - have);
    if (got > 0) have += static_cast<size_t>(got);
    if (got == 0 || (got < 0 && errno != EAGAIN)) break;
    pollfd entry{socket.get(), POLLIN, 0};
    if (got < 0 && ::poll(&entry, 1, static_cast<int>(kSoon.count())) != 1) break;
  }
  text.resize(have);
  return text;
}

bool write_all(Socket& socket, std::string_view text) {
  return socket.write(text) == static_cast<ssize_t>(text.size());
}

void expect_joined(Socket& a, Socket& b) {
  ASSERT_TRUE(a.valid() && b.valid());
  EXPECT_TRUE(write_all(a, "hello"));
  EXPECT_EQ(read_some(b, 5), "hello");
  EXPECT_TRUE(write_all(b, "there"));
  EXPECT_EQ(read_some(a, 5), "there");
}

/// Makes the connection of `key` between the higher rank and `key.peer`.
void expect_meeting(Endpoint& low, Endpoint& high, Role role, uint8_t stream) {
  const Rank below = low.self().rank, above = high.self().rank;
  low.want({above, role, stream});
  auto connected = high.wait({below, role, stream}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  auto accepted = low.wait({above, role, stream}, kSoon);
  ASSERT_TRUE(accepted.ok()) << accepted.status().message();
  expect_joined(connected.value(), accepted.value());
}

Socket connect_plainly(const Endpoint& endpoint) {
  const auto where = resolve(endpoint.addresses());
  EXPECT_TRUE(where.ok());
  Socket socket(Descriptor(::socket(where.value()[0].family(), SOCK_STREAM | SOCK_CLOEXEC, 0)));
  EXPECT_EQ(::connect(socket.get(), where.value()[0].get(), where.value()[0].bytes), 0);
  return socket;
}

/// Waits until so many strangers were cut off.
bool cut_off(const Endpoint& endpoint, uint64_t count) {
  for (int turn = 0; turn < 2'000 && endpoint.strangers() < count; ++turn) ::poll(nullptr, 0, 10);
  return endpoint.strangers() >= count;
}

class TcpEndpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    Endpoint::Options options = options_of(0);
    options.warn = [heard = heard_](const std::string& text) {
      const std::lock_guard lock(heard->mutex);
      heard->warnings.push_back(text);
    };
    low_ = open(options);
    high_ = open(options_of(1));
    high_->know(0, low_->addresses());
  }

  const std::shared_ptr<Heard> heard_ = std::make_shared<Heard>();
  std::shared_ptr<Endpoint> low_, high_;
};

TEST_F(TcpEndpoint, JoinsTwoRanksOnceForEachKey) {
  for (uint8_t stream = 0; stream < 4; ++stream) expect_meeting(*low_, *high_, Role::kData, stream);
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_EQ(low_->strangers(), 0u);
}

TEST_F(TcpEndpoint, AConnectionIsTakenOnce) {
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_EQ(high_->take({0, Role::kControl, 0}).status().code(), Code::kInternal);
  EXPECT_EQ(low_->take({1, Role::kControl, 0}).status().code(), Code::kInternal);
}

TEST_F(TcpEndpoint, TakingWhatIsUnderWayGivesNothing) {
  auto early = low_->take({1, Role::kData, 0});
  ASSERT_TRUE(early.ok());
  EXPECT_FALSE(early.value().has_value());
  low_->want({1, Role::kData, 0});
  early = low_->take({1, Role::kData, 0});
  ASSERT_TRUE(early.ok());
  EXPECT_FALSE(early.value().has_value());
}

TEST_F(TcpEndpoint, ACallBeforeTheOtherSideWantsItIsKept) {
  auto connected = high_->wait({0, Role::kData, 5}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  auto accepted = low_->wait({1, Role::kData, 5}, kSoon);
  ASSERT_TRUE(accepted.ok()) << accepted.status().message();
  expect_joined(connected.value(), accepted.value());
}

TEST_F(TcpEndpoint, AddressesMayBecomeKnownAfterTheConnectionIsWanted) {
  const auto third = open(options_of(2));
  third->want({0, Role::kControl, 0});
  third->know(0, low_->addresses());
  EXPECT_TRUE(third->wait({0, Role::kControl, 0}, kSoon).ok());
}

TEST_F(TcpEndpoint, RingsWhenAWantedConnectionIsThere) {
  const Descriptor bell(::eventfd(0, EFD_CLOEXEC));
  for (Endpoint* each : {low_.get(), high_.get()})
    each->on_ready([&bell] {
      const uint64_t one = 1;
      ASSERT_EQ(::write(bell.get(), &one, sizeof(one)), 8);
    });
  low_->want({1, Role::kData, 0});
  high_->want({0, Role::kData, 0});
  for (Endpoint* each : {low_.get(), high_.get()}) {
    const Key key{each == low_.get() ? 1 : 0, Role::kData, 0};
    for (;;) {
      auto taken = each->take(key);
      ASSERT_TRUE(taken.ok());
      if (taken.value()) break;
      pollfd entry{bell.get(), POLLIN, 0};
      ASSERT_EQ(::poll(&entry, 1, static_cast<int>(kSoon.count())), 1);
      uint64_t times = 0;
      ASSERT_EQ(::read(bell.get(), &times, sizeof(times)), 8);
    }
  }
  low_->on_ready({}), high_->on_ready({});
}

TEST_F(TcpEndpoint, ASecondConnectionForTheSameKeyIsRefused) {
  expect_meeting(*low_, *high_, Role::kData, 0);
  Endpoint::Options twin = options_of(1);
  twin.connect_timeout = milliseconds(300);
  const auto other = open(twin);
  other->know(0, low_->addresses());
  const auto refused = other->wait({0, Role::kData, 0}, kSoon);
  // It has proved itself; what it claims is taken.
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::kUnavailable);
  EXPECT_GE(low_->strangers(), 1u);
  EXPECT_NE(heard_->all().at(0).find("rank 1 has this data connection already"), std::string::npos);
}

TEST_F(TcpEndpoint, OneThatItsMakerGaveUpIsReplaced) {
  { const auto given_up = high_->wait({0, Role::kData, 0}, kSoon); }
  const auto again = open(options_of(1));
  again->know(0, low_->addresses());
  auto connected = again->wait({0, Role::kData, 0}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  auto accepted = low_->wait({1, Role::kData, 0}, kSoon);
  ASSERT_TRUE(accepted.ok());
  expect_joined(connected.value(), accepted.value());
}

TEST_F(TcpEndpoint, AWrongSecretIsRefusedAndBothSidesAreTold) {
  Endpoint::Options wrong = options_of(1);
  wrong.secret[0] ^= 1;
  wrong.connect_timeout = milliseconds(300);
  const auto stranger = open(wrong);
  stranger->know(0, low_->addresses());
  const auto refused = stranger->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.status().message().starts_with(
      "tcp: rank 1 cannot connect to rank 0: " + low_->addresses() +
      ": it hung up on this rank's "
      "proof: is HORA_SECRET the same on both sides?"))
      << refused.status().message();
  ASSERT_EQ(heard_->all().size(), 1u);
  EXPECT_NE(heard_->all()[0].find("does not know the job's secret"), std::string::npos);
  expect_meeting(*low_, *high_, Role::kControl, 0);
}

TEST_F(TcpEndpoint, StrangersWithGarbageChangeNothingAndAreToldOnce) {
  for (int i = 0; i < 20; ++i) {
    Socket stranger = connect_plainly(*low_);
    write_all(stranger, std::string(200, static_cast<char>(i)));
    EXPECT_EQ(read_some(stranger, 1), "");  // hung up on, without a word
  }
  EXPECT_TRUE(cut_off(*low_, 20));
  ASSERT_EQ(heard_->all().size(), 1u);
  EXPECT_TRUE(heard_->all()[0].starts_with("rank 0 cut off a connection from 127.0.0.1:"));
  expect_meeting(*low_, *high_, Role::kControl, 0);
}

TEST_F(TcpEndpoint, AStrangerWhoPlaysARecordingAgainIsCutOff) {
  // Between a rank and its peer, for once, somebody who listens in.
  const auto between = listen_at(resolve_hosts("127.0.0.1").value()[0], 0);
  ASSERT_TRUE(between.ok());
  high_ = open(options_of(1));
  high_->know(0, bound_to(between.value().get()).text());
  high_->want({0, Role::kControl, 0});
  pollfd entry{between.value().get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, static_cast<int>(kSoon.count())), 1);
  Socket from(Descriptor(::accept(between.value().get(), nullptr, nullptr)));
  Socket to = connect_plainly(*low_);
  const std::string hello = read_some(from, Handshake::kHello);
  ASSERT_TRUE(write_all(to, hello));
  ASSERT_TRUE(write_all(from, read_some(to, Handshake::kChallenge)));
  const std::string proof = read_some(from, Handshake::kMac);
  ASSERT_TRUE(write_all(to, proof));
  ASSERT_TRUE(write_all(from, read_some(to, Handshake::kMac)));
  EXPECT_TRUE(high_->wait({0, Role::kControl, 0}, kSoon).ok());
  EXPECT_EQ(low_->strangers(), 0u);

  Socket replay = connect_plainly(*low_);
  ASSERT_TRUE(write_all(replay, hello));
  EXPECT_EQ(read_some(replay, Handshake::kChallenge).size(), Handshake::kChallenge);
  write_all(replay, proof);
  EXPECT_EQ(read_some(replay, 1), "");
  EXPECT_TRUE(cut_off(*low_, 1));
}

TEST_F(TcpEndpoint, HundredsWhoStallHoldUpNobodyForLong) {
  std::vector<Socket> stalling;
  for (int i = 0; i < 200; ++i) {
    stalling.push_back(connect_plainly(*low_));
    if (i % 2) write_all(stalling.back(), "HORA");
  }
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_TRUE(cut_off(*low_, 200));
  EXPECT_EQ(heard_->all().size(), 1u);
}

TEST_F(TcpEndpoint, AProvenPeerMayNotClaimALowerRankOrTheServersOwn) {
  const auto middle = open(options_of(5));
  for (const Rank rank : {3, 5}) {
    Endpoint::Options options = options_of(rank);
    Socket socket = connect_plainly(*middle);
    Handshake client = Handshake::client(handshake_key(secret(), options.self.job), options.self, 5,
                                         Role::kControl, 0, fresh_nonce());
    ASSERT_TRUE(write_all(socket, client.output));
    client.output.clear();
    ASSERT_TRUE(client.feed(read_some(socket, Handshake::kChallenge)).ok());
    ASSERT_TRUE(write_all(socket, client.output));
    (void)read_some(socket, Handshake::kMac);
    EXPECT_EQ(read_some(socket, 1), "");
  }
  EXPECT_TRUE(cut_off(*middle, 2));
}

TEST_F(TcpEndpoint, ACallerSurvivesAServerThatTalksGarbageOrNothing) {
  const auto place = listen_at(resolve_hosts("127.0.0.1").value()[0], 0);
  ASSERT_TRUE(place.ok());
  Endpoint::Options options = options_of(1);
  options.connect_timeout = milliseconds(1'000);
  const auto caller = open(options);
  caller->know(0, bound_to(place.value().get()).text());
  caller->want({0, Role::kControl, 0});
  pollfd entry{place.value().get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, static_cast<int>(kSoon.count())), 1);
  Socket accepted(Descriptor(::accept(place.value().get(), nullptr, nullptr)));
  write_all(accepted, std::string(200, 'x'));
  const auto failed = caller->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(failed.ok());
  EXPECT_TRUE(failed.status().message().starts_with("tcp: rank 1 cannot connect to rank 0: 127.0"))
      << failed.status().message();
}

TEST_F(TcpEndpoint, TriesSeveralAddressesInTurnAndNamesThemAllIfNoneAnswers) {
  Descriptor closed = std::move(listen_at(resolve_hosts("127.0.0.1").value()[0], 0)).value();
  const std::string nobody = bound_to(closed.get()).text();
  closed.reset();
  const auto third = open(options_of(2));
  third->know(0, nobody + "," + high_->addresses() + "," + low_->addresses());
  EXPECT_TRUE(third->wait({0, Role::kControl, 0}, kSoon).ok());

  Endpoint::Options options = options_of(3);
  options.connect_timeout = milliseconds(500);
  const auto fourth = open(options);
  fourth->know(0, nobody + "," + high_->addresses());
  const auto failed = fourth->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(failed.ok());
  const std::string& text = failed.status().message();
  EXPECT_NE(text.find(nobody + ": Connection refused"), std::string::npos) << text;
  EXPECT_NE(text.find(high_->addresses() + ": rank 1 of epoch 1 listens there, not rank 0"),
            std::string::npos)
      << text;
}

TEST_F(TcpEndpoint, WaitingForARankThatDoesNotComeEndsAndNamesIt) {
  const auto late = low_->wait({9, Role::kControl, 0}, milliseconds(20));
  EXPECT_EQ(late.status().code(), Code::kTimeout);
  EXPECT_EQ(late.status().message(), "tcp: rank 0 waited 20 ms for rank 9 to connect");
}

TEST_F(TcpEndpoint, AnAddressThatIsNoneIsAnErrorThatShowsIt) {
  high_->know(0, "nonsense");
  const auto third = open(options_of(2));
  third->know(0, "nonsense");
  const auto failed = third->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.status().message(),
            "tcp: rank 2 cannot connect to rank 0: nonsense: expected host:port or [address]:port");
}

TEST_F(TcpEndpoint, ListensWhereItIsToldOnIPv4AndIPv6) {
  if (!listen_at(resolve_hosts("::1").value()[0], 0).ok()) GTEST_SKIP() << "no IPv6 here";
  const auto six = open(options_of(0, "::1"));
  EXPECT_TRUE(six->addresses().starts_with("[::1]:")) << six->addresses();
  const auto caller = open(options_of(1));
  caller->know(0, six->addresses());
  expect_meeting(*six, *caller, Role::kControl, 0);

  const auto both = open(options_of(0, "127.0.0.1, ::1"));
  const auto second = open(options_of(2));
  second->know(0, both->addresses().substr(both->addresses().find(',') + 1));
  expect_meeting(*both, *second, Role::kControl, 0);
}

TEST_F(TcpEndpoint, ListensEverywhereWhenNotToldWhere) {
  const auto anywhere = open(options_of(0, ""));
  const auto reached = resolve(anywhere->addresses());
  ASSERT_TRUE(reached.ok());
  for (const auto& where : reached.value()) {
    const auto caller = open(options_of(1 + static_cast<Rank>(where.port() % 7)));
    caller->know(0, where.text());
    EXPECT_TRUE(caller->wait({0, Role::kControl, static_cast<uint8_t>(where.family())}, kSoon).ok())
        << where.text();
    break;
  }
  EXPECT_NE(anywhere->addresses().find("127.0.0.1:"), std::string::npos) << anywhere->addresses();
}

TEST_F(TcpEndpoint, AnAddressOfAnotherMachineIsAnErrorThatNamesTheSetting) {
  const auto refused = Endpoint::open(options_of(0, "192.0.2.1"));
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(
      refused.status().message().starts_with("HORA_ADDRESS: tcp: cannot listen at 192.0.2.1"))
      << refused.status().message();
}

TEST_F(TcpEndpoint, EndsWhileConnectionsAreUnderWay) {
  std::vector<Socket> stalling;
  for (int i = 0; i < 5; ++i) stalling.push_back(connect_plainly(*low_));
  high_->want({0, Role::kControl, 0});
  high_.reset();
  low_.reset();
}

TEST_F(TcpEndpoint, WantOfDescriptorsIsWaitedOut) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<Socket> calls;
  calls.push_back(connect_plainly(*low_));
  rlimit none = before;
  none.rlim_cur = 3;
  Socket socket(Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  const auto where = resolve(low_->addresses()).value()[0];
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_EQ(::connect(socket.get(), where.get(), where.bytes), 0);
  ::poll(nullptr, 0, 100);  // it cannot accept now
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  write_all(socket, std::string(100, 'x'));
  EXPECT_EQ(read_some(socket, 1), "");
}

TEST(TcpAddress, ReadsListsAndRefusesWhatIsNone) {
  const auto list = resolve("10.0.0.1:4711, [2001:db8::1]:80,127.0.0.1:1");
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list.value().size(), 3u);
  EXPECT_EQ(list.value()[0].text(), "10.0.0.1:4711");
  EXPECT_EQ(list.value()[1].text(), "[2001:db8::1]:80");
  EXPECT_EQ(list.value()[2].port(), 1);
  EXPECT_TRUE(resolve("").value().empty());
  for (const char* bad : {"10.0.0.1", "10.0.0.1:", ":1", "10.0.0.1:0", "10.0.0.1:65536", "::1:80",
                          "[]:80", "10.0.0.1:8o", "10.0.0.1:99999999999999999999"})
    EXPECT_FALSE(resolve(bad).ok()) << bad;
}

}  // namespace
}  // namespace hora::tcp
