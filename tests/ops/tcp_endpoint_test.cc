// Goal: ranks of one job find each other over TCP, and nobody else can get between.
// Method: endpoints of several ranks in this process on loopback, in the clear and encrypted;
// strangers are plain sockets that do what they should not.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ops/lane.h"
#include "ops/tcp/endpoint.h"
#include "ops/tcp/tcp.h"
#include "ops/tcp/tls.h"

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

/// Says all, which an encrypted connection only does once it has heard of the other side.
void say(Socket& socket, std::string_view text) {
  for (int turn = 0; !text.empty() && turn < 2'000; ++turn) {
    const ssize_t sent = socket.write(text);
    if (sent > 0) text.remove_prefix(static_cast<size_t>(sent));
    if (sent < 0) ::poll(nullptr, 0, 1);
  }
  EXPECT_TRUE(text.empty());
}

/// Waits until so many strangers were cut off.
bool cut_off(const Endpoint& endpoint, uint64_t count) {
  for (int turn = 0; turn < 2'000 && endpoint.strangers() < count; ++turn) ::poll(nullptr, 0, 10);
  return endpoint.strangers() >= count;
}

/// With a parameter: whether connections are encrypted.
class TcpEndpoint : public ::testing::TestWithParam<bool> {
 protected:
  static bool tls() { return GetParam(); }

  static Endpoint::Options options_of(Rank rank, const std::string& bind = "127.0.0.1") {
    Endpoint::Options options;
    options.self = {job_of("a job"), 1, rank};
    options.secret = secret();
    options.tls = tls();
    options.bind = bind;
    options.handshake_timeout = milliseconds(500);
    options.connect_timeout = milliseconds(20'000);
    return options;
  }

  /// What an endpoint whose options are these says of why it cannot reach low_.
  std::string refusal(const Endpoint::Options& options) const {
    const auto caller = open(options);
    caller->know(0, low_->addresses());
    const auto refused = caller->wait({0, Role::kControl, 0}, kSoon);
    EXPECT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), Code::kUnavailable);
    return refused.status().message();
  }
  std::string told_by_caller(const std::string& why) const {
    return "tcp: rank 1 cannot connect to rank 0: " + low_->addresses() + ": " + why;
  }
  /// What low_ has said of the first stranger, without the address.
  std::string told_by_low() const {
    const auto all = heard_->all();
    if (all.size() != 1) return std::to_string(all.size()) + " warnings";
    return all[0].substr(all[0].find(": ") + 2);
  }
  static std::string as_a_warning(const std::string& why) {
    return why + ". It changes nothing; others like it are only counted";
  }

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

  /// Somebody who has the job's secret, and may say what no endpoint says.
  static Socket connect_as_member(const Endpoint& endpoint) {
    const Socket plain = connect_plainly(endpoint);
    return Socket(Descriptor(::dup(plain.get())),
                  tls() ? std::make_shared<const TlsKey>(secret(), endpoint.self().job) : nullptr);
  }

  /// A listener of the test's own in the place of rank 0. `caller` is made anew, with these
  /// options, and has called there.
  static Descriptor called_by(std::shared_ptr<Endpoint>& caller, const Endpoint::Options& options,
                              Role role) {
    auto listening = listen_at(resolve_hosts("127.0.0.1").value()[0], 0);
    EXPECT_TRUE(listening.ok());
    Descriptor listener = std::move(listening).value();
    caller = open(options);
    caller->know(0, bound_to(listener.get()).text());
    caller->want({0, role, 0});
    pollfd entry{listener.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, static_cast<int>(kSoon.count())), 1);
    return listener;
  }

  const std::shared_ptr<Heard> heard_ = std::make_shared<Heard>();
  std::shared_ptr<Endpoint> low_, high_;
};

TEST_P(TcpEndpoint, JoinsTwoRanksOnceForEachKey) {
  for (uint8_t stream = 0; stream < 4; ++stream) expect_meeting(*low_, *high_, Role::kData, stream);
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_EQ(low_->strangers(), 0u);
}

TEST_P(TcpEndpoint, AConnectionIsTakenOnce) {
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_EQ(high_->take({0, Role::kControl, 0}).status().code(), Code::kInternal);
  EXPECT_EQ(low_->take({1, Role::kControl, 0}).status().code(), Code::kInternal);
}

TEST_P(TcpEndpoint, TakingWhatIsUnderWayGivesNothing) {
  auto early = low_->take({1, Role::kData, 0});
  ASSERT_TRUE(early.ok());
  EXPECT_FALSE(early.value().has_value());
  low_->want({1, Role::kData, 0});
  early = low_->take({1, Role::kData, 0});
  ASSERT_TRUE(early.ok());
  EXPECT_FALSE(early.value().has_value());
}

TEST_P(TcpEndpoint, ACallBeforeTheOtherSideWantsItIsKept) {
  auto connected = high_->wait({0, Role::kData, 5}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  auto accepted = low_->wait({1, Role::kData, 5}, kSoon);
  ASSERT_TRUE(accepted.ok()) << accepted.status().message();
  expect_joined(connected.value(), accepted.value());
}

TEST_P(TcpEndpoint, AddressesMayBecomeKnownAfterTheConnectionIsWanted) {
  const auto third = open(options_of(2));
  third->want({0, Role::kControl, 0});
  third->know(0, low_->addresses());
  EXPECT_TRUE(third->wait({0, Role::kControl, 0}, kSoon).ok());
}

TEST_P(TcpEndpoint, RingsWhenAWantedConnectionIsThere) {
  // An endpoint's thread may be ringing still when it is told not to any more.
  const auto bell = std::make_shared<const Descriptor>(::eventfd(0, EFD_CLOEXEC));
  for (Endpoint* each : {low_.get(), high_.get()})
    each->on_ready([bell] {
      const uint64_t one = 1;
      ASSERT_EQ(::write(bell->get(), &one, sizeof(one)), 8);
    });
  low_->want({1, Role::kData, 0});
  high_->want({0, Role::kData, 0});
  for (Endpoint* each : {low_.get(), high_.get()}) {
    const Key key{each == low_.get() ? 1 : 0, Role::kData, 0};
    for (;;) {
      auto taken = each->take(key);
      ASSERT_TRUE(taken.ok());
      if (taken.value()) break;
      pollfd entry{bell->get(), POLLIN, 0};
      ASSERT_EQ(::poll(&entry, 1, static_cast<int>(kSoon.count())), 1);
      uint64_t times = 0;
      ASSERT_EQ(::read(bell->get(), &times, sizeof(times)), 8);
    }
  }
  low_->on_ready({}), high_->on_ready({});
}

TEST_P(TcpEndpoint, ASecondConnectionForTheSameKeyIsRefused) {
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

TEST_P(TcpEndpoint, OneThatItsMakerGaveUpIsReplaced) {
  { const auto given_up = high_->wait({0, Role::kData, 0}, kSoon); }
  const auto again = open(options_of(1));
  again->know(0, low_->addresses());
  auto connected = again->wait({0, Role::kData, 0}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  auto accepted = low_->wait({1, Role::kData, 0}, kSoon);
  ASSERT_TRUE(accepted.ok());
  expect_joined(connected.value(), accepted.value());
}

TEST_P(TcpEndpoint, AWrongSecretIsRefusedSoonAndBothSidesAreTold) {
  Endpoint::Options wrong = options_of(1);
  wrong.secret[0] ^= 1;
  EXPECT_EQ(refusal(wrong),
            told_by_caller(tls() ? "its HORA_SECRET is another"
                                 : "it refuses this rank's proof: its HORA_SECRET is another, or "
                                   "the rank is there already"));
  EXPECT_EQ(low_->strangers(), static_cast<uint64_t>(kRefusals));
  EXPECT_EQ(told_by_low(), as_a_warning(tls() ? "its HORA_SECRET is another"
                                              : "it does not know the job's secret"));
  expect_meeting(*low_, *high_, Role::kControl, 0);
}

TEST_P(TcpEndpoint, AnotherEpochIsRefusedSoonAndBothSidesAreTold) {
  Endpoint::Options late = options_of(1);
  late.self.epoch = 2;
  EXPECT_EQ(refusal(late),
            told_by_caller("rank 0 of epoch 1 listens there, not rank 0 of epoch 2"));
  EXPECT_EQ(told_by_low(), as_a_warning("it is in epoch 2, not 1"));
  expect_meeting(*low_, *high_, Role::kControl, 0);
}

TEST_P(TcpEndpoint, AnotherJobIsRefusedSoonAndBothSidesAreTold) {
  Endpoint::Options other = options_of(1);
  other.self.job = job_of("another job");
  EXPECT_EQ(refusal(other),
            told_by_caller(tls() ? "it belongs to another job"
                                 : "it hung up on this rank's hello: it is of another job, or not "
                                   "Hora's"));
  EXPECT_EQ(told_by_low(), as_a_warning("it belongs to another job"));
}

TEST_P(TcpEndpoint, OneThatEncryptsAndOneThatDoesNotTellEachOther) {
  Endpoint::Options other = options_of(1);
  other.tls = !tls();
  const std::string only_low = "it encrypts: HORA_TLS=1 is set there and not here";
  EXPECT_EQ(refusal(other),
            told_by_caller(tls() ? only_low
                                 : "it hung up on this rank's TLS: is HORA_TLS=1 set there, too?"));
  EXPECT_EQ(
      told_by_low(),
      as_a_warning(tls() ? "it does not encrypt: HORA_TLS=1 is set here and not there" : only_low));
  expect_meeting(*low_, *high_, Role::kControl, 0);
}

TEST_P(TcpEndpoint, StrangersWithGarbageChangeNothingAndAreToldOnce) {
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

TEST_P(TcpEndpoint, AStrangerWhoPlaysARecordingAgainIsCutOff) {
  // Between a rank and its peer, for once, somebody who listens in.
  const Descriptor between = called_by(high_, options_of(1), Role::kControl);
  Socket from(Descriptor(::accept(between.get(), nullptr, nullptr)));
  Socket to = connect_plainly(*low_);
  std::string recording;
  for (;;) {
    auto taken = high_->take({0, Role::kControl, 0});
    ASSERT_TRUE(taken.ok()) << taken.status().message();
    if (taken.value()) break;
    pollfd ends[] = {{from.get(), POLLIN, 0}, {to.get(), POLLIN, 0}};
    ::poll(ends, 2, 10);
    char bytes[4096];
    ssize_t got = from.read(bytes, sizeof(bytes));
    if (got > 0) recording.append(bytes, static_cast<size_t>(got));
    if (got > 0) ASSERT_TRUE(write_all(to, {bytes, static_cast<size_t>(got)}));
    got = to.read(bytes, sizeof(bytes));
    if (got > 0) ASSERT_TRUE(write_all(from, {bytes, static_cast<size_t>(got)}));
  }
  EXPECT_TRUE(low_->wait({1, Role::kControl, 0}, kSoon).ok());
  EXPECT_EQ(low_->strangers(), 0u);

  Socket replay = connect_plainly(*low_);
  ASSERT_TRUE(write_all(replay, recording));
  read_some(replay, 1 << 20);  // until it hangs up
  EXPECT_TRUE(cut_off(*low_, 1));
  EXPECT_EQ(told_by_low(),
            as_a_warning(tls() ? "what it says is not this job's TLS (decryption failed or bad "
                                 "record mac)"
                               : "it does not know the job's secret"));
}

TEST_P(TcpEndpoint, HundredsWhoStallHoldUpNobodyForLong) {
  std::vector<Socket> stalling;
  for (int i = 0; i < 200; ++i) {
    stalling.push_back(connect_plainly(*low_));
    if (i % 2) write_all(stalling.back(), "HORA");
  }
  expect_meeting(*low_, *high_, Role::kControl, 0);
  EXPECT_TRUE(cut_off(*low_, 200));
  EXPECT_EQ(heard_->all().size(), 1u);
}

TEST_P(TcpEndpoint, AProvenPeerMayNotClaimALowerRankOrTheServersOwn) {
  const auto middle = open(options_of(5));
  for (const Rank rank : {3, 5}) {
    Endpoint::Options options = options_of(rank);
    Socket socket = connect_as_member(*middle);
    Handshake client = Handshake::client(handshake_key(secret(), options.self.job), options.self, 5,
                                         Role::kControl, 0, fresh_nonce());
    say(socket, client.output);
    client.output.clear();
    ASSERT_TRUE(client.feed(read_some(socket, Handshake::kChallenge)).ok());
    ASSERT_TRUE(write_all(socket, client.output));
    (void)read_some(socket, Handshake::kMac);
    EXPECT_EQ(read_some(socket, 1), "");
  }
  EXPECT_TRUE(cut_off(*middle, 2));
}

TEST_P(TcpEndpoint, ACallerSurvivesAServerThatTalksGarbageOrNothing) {
  Endpoint::Options options = options_of(1);
  options.connect_timeout = milliseconds(1'000);
  const Descriptor place = called_by(high_, options, Role::kControl);
  Socket accepted(Descriptor(::accept(place.get(), nullptr, nullptr)));
  write_all(accepted, std::string(200, 'x'));
  const auto failed = high_->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(failed.ok());
  EXPECT_TRUE(failed.status().message().starts_with("tcp: rank 1 cannot connect to rank 0: 127.0"))
      << failed.status().message();
}

TEST_P(TcpEndpoint, ACallerThatHasProvedItselfWaitsForALateAcceptance) {
  const Descriptor place = called_by(high_, options_of(1), Role::kData);
  const Endpoint::Options options = options_of(0);
  Socket accepted(Descriptor(::accept4(place.get(), nullptr, nullptr, SOCK_NONBLOCK)),
                  tls() ? std::make_shared<const TlsKey>(secret(), options.self.job) : nullptr,
                  Side::kServer);
  Handshake server =
      Handshake::server(handshake_key(secret(), options.self.job), options.self, fresh_nonce());
  ASSERT_TRUE(server.feed(read_some(accepted, Handshake::kHello)).ok());
  say(accepted, server.output);
  server.output.clear();
  ASSERT_TRUE(server.feed(read_some(accepted, Handshake::kMac)).ok());
  // Longer than an attempt may take otherwise: as if the link were cut for a moment.
  pollfd calls{place.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&calls, 1, 1'200), 0) << "it calls again, on a connection that is kept";
  say(accepted, server.output);
  auto connected = high_->wait({0, Role::kData, 0}, kSoon);
  ASSERT_TRUE(connected.ok()) << connected.status().message();
  expect_joined(connected.value(), accepted);
}

TEST_P(TcpEndpoint, TriesSeveralAddressesInTurnAndNamesThemAllIfNoneAnswers) {
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

TEST_P(TcpEndpoint, WaitingForARankThatDoesNotComeEndsAndNamesIt) {
  const auto late = low_->wait({9, Role::kControl, 0}, milliseconds(20));
  EXPECT_EQ(late.status().code(), Code::kTimeout);
  EXPECT_EQ(late.status().message(), "tcp: rank 0 waited 20 ms for rank 9 to connect");
}

TEST_P(TcpEndpoint, AnAddressThatIsNoneIsAnErrorThatShowsIt) {
  high_->know(0, "nonsense");
  const auto third = open(options_of(2));
  third->know(0, "nonsense");
  const auto failed = third->wait({0, Role::kControl, 0}, kSoon);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.status().message(),
            "tcp: rank 2 cannot connect to rank 0: nonsense: expected host:port or [address]:port");
}

TEST_P(TcpEndpoint, ListensWhereItIsToldOnIPv4AndIPv6) {
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

TEST_P(TcpEndpoint, ListensEverywhereWhenNotToldWhere) {
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

TEST_P(TcpEndpoint, AnAddressOfAnotherMachineIsAnErrorThatNamesTheSetting) {
  const auto refused = Endpoint::open(options_of(0, "192.0.2.1"));
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(
      refused.status().message().starts_with("HORA_ADDRESS: tcp: cannot listen at 192.0.2.1"))
      << refused.status().message();
}

TEST_P(TcpEndpoint, EndsWhileConnectionsAreUnderWay) {
  std::vector<Socket> stalling;
  for (int i = 0; i < 5; ++i) stalling.push_back(connect_plainly(*low_));
  high_->want({0, Role::kControl, 0});
  high_.reset();
  low_.reset();
}

/// Sockets of this process that no other program began with.
int own_sockets() {
  int count = 0;
  for (int descriptor = 0; descriptor < 1024; ++descriptor) {
    struct stat about;
    if (::fstat(descriptor, &about) != 0 || !S_ISSOCK(about.st_mode)) continue;
    count += (::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) != 0;
  }
  return count;
}

TEST_P(TcpEndpoint, LeavesAForkedChildNoSocket) {
  const Rank ranks[] = {0, 1};
  Options options;
  options.streams = 2;
  options.now = [] { return int64_t{0}; };
  const auto below = open(low_, options), above = open(high_, options);
  const auto one = below->communicator(0, ranks, 0), other = above->communicator(0, ranks, 0);
  ASSERT_TRUE(one.ok() && other.ok());
  Lane first{0}, second{0};
  first.start(one.value()->barrier(first, Tag::of(1, 0)));
  second.start(other.value()->barrier(second, Tag::of(1, 0)));
  for (int turn = 0; turn < 10'000 && !(first.idle() && second.idle()); ++turn)
    if (!first.progress() && !second.progress()) ::poll(nullptr, 0, 1);
  ASSERT_TRUE(first.idle() && second.idle());
  std::atomic<int> ready{0};
  for (const auto& endpoint : {low_, high_}) endpoint->on_ready([&ready] { ++ready; });
  low_->want({1, Role::kControl, 0});
  high_->want({0, Role::kControl, 0});  // and nobody takes it
  for (int turn = 0; turn < 2'000 && ready < 2; ++turn) ::poll(nullptr, 0, 10);
  EXPECT_GE(own_sockets(), 4);
  const pid_t child = ::fork();
  if (child == 0) {
    low_->forget_in_child();
    high_->forget_in_child();
    ::_exit(own_sockets());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  low_.reset();  // they ring no more
  high_.reset();
}

TEST_P(TcpEndpoint, WantOfDescriptorsIsWaitedOut) {
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

INSTANTIATE_TEST_SUITE_P(Encryption, TcpEndpoint, ::testing::Bool(),
                         [](const auto& instance) { return instance.param ? "Tls" : "Plain"; });

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
