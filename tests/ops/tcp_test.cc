// Goal: beyond what every backend does (the conformance suite runs over tcp, too), operations of
// every size and number of members and streams are exact; a peer that dies, falls silent or sends
// what is not its turn is named in bounded time; and a driver that sleeps misses nothing.
// Method: ranks as threads over real connections on loopback with small buffers, or one rank
// against a hand-made peer.

#include "ops/tcp/tcp.h"

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "ops/tcp/header.h"
#include "tests/support/data.h"
#include "tests/support/run_ranks.h"
#include "tests/support/tcp_pairs.h"

namespace hora {
namespace {

using namespace std::chrono_literals;
using support::Bytes;
using support::TcpPairs;

constexpr uint64_t kTag = Tag::of(7, 0);

/// One rank with a communicator of all.
class Member {
 public:
  Member(std::unique_ptr<Backend> backend, int size) : backend_(std::move(backend)) {
    std::vector<Rank> ranks(static_cast<size_t>(size));
    std::iota(ranks.begin(), ranks.end(), 0);
    auto made = backend_->communicator(0, ranks, 0);
    HORA_CHECK(made.ok(), made.status().message());
    world_ = std::move(made).value();
  }
  Backend& backend() { return *backend_; }
  Communicator& world() { return *world_; }
  Lane& lane() { return lane_; }
  uint64_t tag() { return Tag::of(++sequence_, 0); }
  Status run(Ticket ticket) { return support::run(lane_, std::move(ticket)); }
  Status sum(Bytes& values, uint64_t tag) {
    const Segment segment{values.data(), values.size() / sizeof(float)};
    return run(world_->allreduce(lane_, tag, {&segment, 1}, {DType::kFloat32, ReduceOp::kSum}));
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> world_;
  Lane lane_{0};
  uint64_t sequence_ = 0;
};

void with_members(int size, int streams, const std::function<std::string(Member&, Rank)>& body) {
  TcpPairs pairs(size, streams);
  EXPECT_EQ(support::run_threads(size,
                                 [&](Rank rank) {
                                   tcp::Options options = support::tcp_options(rank);
                                   options.streams = streams;
                                   Member member(tcp::open(pairs.dial(rank), options), size);
                                   return body(member, rank);
                                 }),
            "")
      << size << " ranks, " << streams << " streams";
}

Bytes floats(size_t count, Rank rank) {
  return support::make_values(DType::kFloat32, support::Values::kPlain, count,
                              1000 + static_cast<uint64_t>(rank));
}

Bytes text(size_t bytes, uint64_t seed) {
  return support::make_values(DType::kUInt8, support::Values::kWild, bytes, seed);
}

std::string check_allreduce(Member& member, Rank rank, int size, size_t count) {
  const Reduction reduction{DType::kFloat32, ReduceOp::kSum};
  std::vector<Bytes> inputs;
  for (Rank other = 0; other < size; ++other) inputs.push_back(floats(count, other));
  const Bytes wanted = support::reduce_by_definition(reduction, inputs);
  support::Random random(static_cast<uint64_t>(rank) + count);
  support::Pieces pieces(inputs[static_cast<size_t>(rank)], sizeof(float), 5, random);
  HORA_WANT_OK(member.run(
      member.world().allreduce(member.lane(), member.tag(), pieces.segments(), reduction)));
  HORA_WANT(pieces.content() == wanted, "wrong sum of " + std::to_string(count));
  HORA_WANT(pieces.guards_intact(), "wrote outside of a segment");
  return "";
}

TEST(Tcp, AddsUpEverySizeInRankOrderWithAnyNumberOfStreams) {
  for (const int streams : {1, 3, 8}) {
    for (const int size : {2, 3}) {
      with_members(size, streams, [size](Member& member, Rank rank) -> std::string {
        for (const size_t count : {1, 16 << 10, 33'000, 200'001, 1'500'001})
          HORA_WANT_NOTHING(check_allreduce(member, rank, size, count));
        return "";
      });
    }
  }
}

/// The streams on which rank 0 of three hosts reaches the others for a large sum.
std::set<int> streams_taken(double latency) {
  constexpr int kStreams = 4;
  TcpPairs pairs(3, kStreams);
  std::set<int> taken;  // of rank 0
  EXPECT_EQ(support::run_threads(3,
                                 [&](Rank rank) -> std::string {
                                   tcp::Options options = support::tcp_options(rank);
                                   options.streams = kStreams;
                                   options.hosts = {0, 1, 2};
                                   options.link.latency = latency;
                                   tcp::Dial dial = pairs.dial(rank);
                                   if (rank == 0)
                                     dial.want = [&](Rank, uint8_t stream) {
                                       taken.insert(stream);
                                     };
                                   Member member(tcp::open(std::move(dial), options), 3);
                                   return check_allreduce(member, rank, 3, 1'000'000);
                                 }),
            "");
  return taken;
}

TEST(Tcp, ManyHostsShareTheStreamsOfAShortLink) {
  EXPECT_EQ(streams_taken(25e-6), (std::set<int>{0, 1}));
  EXPECT_EQ(streams_taken(20e-3), (std::set<int>{0, 1, 2, 3}));
}

/// Bytes of the first message of a sum of 96 KiB among three.
uint64_t first_message(double latency) {
  TcpPairs pairs(3, 1);
  tcp::Options options = support::tcp_options(0);
  options.streams = 1;
  options.link.latency = latency;
  Bytes values(96 << 10);
  const Segment segment{values.data(), values.size() / sizeof(float)};
  Member member(tcp::open(pairs.dial(0), options), 3);
  member.lane().start(member.world().allreduce(member.lane(), member.tag(), {&segment, 1},
                                               {DType::kFloat32, ReduceOp::kSum}));
  member.lane().progress();
  tcp::Socket end = pairs.end(1, 0, 0);
  tcp::Header header;
  EXPECT_EQ(end.read(&header, sizeof(header)), static_cast<ssize_t>(sizeof(header)));
  return header.bytes;
}

TEST(Tcp, ALongLinkIsWorthMoreBytesThanAnotherStep) {
  EXPECT_EQ(first_message(25e-6), 32u << 10);  // of the part that is the peer's
  EXPECT_EQ(first_message(20e-3), 64u << 10);  // of everything
}

TEST(Tcp, AddsUpManySegmentsInOneMessage) {
  with_members(2, 2, [](Member& member, Rank rank) -> std::string {
    constexpr size_t kSegments = 1000, kEach = 33;
    std::vector<std::vector<float>> tensors(kSegments);
    std::vector<Segment> segments;
    for (size_t i = 0; i < kSegments; ++i) {
      tensors[i].assign(kEach, static_cast<float>(i) + static_cast<float>(rank));
      segments.push_back({reinterpret_cast<std::byte*>(tensors[i].data()), kEach});
    }
    HORA_WANT_OK(member.run(member.world().allreduce(member.lane(), member.tag(), segments,
                                                     {DType::kFloat32, ReduceOp::kSum})));
    for (size_t i = 0; i < kSegments; ++i)
      for (const float value : tensors[i])
        HORA_WANT(value == static_cast<float>(2 * i + 1), "tensor " + std::to_string(i));
    return "";
  });
}

// The ways of a broadcast and of a barrier depend on the number of members and bytes.
TEST(Tcp, BroadcastsDownEveryKindOfTree) {
  for (const int size : {3, 9, 18}) {
    with_members(size, 1, [size](Member& member, Rank rank) -> std::string {
      for (const size_t bytes : {1000, (1 << 20) + 17}) {
        for (const Rank root : {0, size - 1}) {
          const Bytes wanted = text(bytes, bytes + static_cast<uint64_t>(root));
          Bytes got = rank == root ? wanted : Bytes(bytes);
          const Segment segment{got.data(), bytes};
          HORA_WANT_OK(member.run(
              member.world().broadcast(member.lane(), member.tag(), {&segment, 1}, root)));
          HORA_WANT(got == wanted, std::to_string(bytes) + " bytes");
        }
      }
      HORA_WANT_OK(member.run(member.world().barrier(member.lane(), member.tag())));
      return check_allreduce(member, rank, size, 10'000);
    });
  }
}

TEST(Tcp, ExchangesLargePartsInPieces) {
  with_members(3, 2, [](Member& member, Rank rank) -> std::string {
    const auto part = [](Rank from, Rank to) {
      return text(static_cast<size_t>(400'000 * (from + 1) + 1000 * to),
                  static_cast<uint64_t>(10 * from + to));
    };
    Bytes input, wanted;
    std::vector<size_t> send, receive;
    for (Rank other = 0; other < 3; ++other) {
      const Bytes mine = part(rank, other), theirs = part(other, rank);
      send.push_back(mine.size());
      receive.push_back(theirs.size());
      input.insert(input.end(), mine.begin(), mine.end());
      wanted.insert(wanted.end(), theirs.begin(), theirs.end());
    }
    Bytes output(wanted.size());
    HORA_WANT_OK(member.run(member.world().alltoall(member.lane(), member.tag(), input.data(), send,
                                                    output.data(), receive)));
    HORA_WANT(output == wanted, "alltoall");
    return "";
  });
}

// Sleeping.

/// Drives as an engine does that has nothing else to do: looks once, then sleeps. False if it slept
/// for long although the operation could go on.
bool drive_asleep(Member& member) {
  while (!member.lane().idle()) {
    if (member.lane().progress()) continue;
    pollfd news{member.backend().watched(), POLLIN, 0};
    if (::poll(&news, 1, 20'000) == 0) return false;
    member.backend().look();
  }
  return true;
}

TEST(Tcp, WakesASleeperForEverythingThatItWaitsFor) {
  for (const int size : {2, 4}) {  // with more streams than are tried blindly, and with fewer
    with_members(size, 2, [size](Member& member, Rank rank) -> std::string {
      for (const size_t count : {1, 300, 40'000, 1'000'000}) {
        for (int i = 0; i < 30; ++i) {
          std::vector<float> values(count, static_cast<float>(rank + i));
          const Segment segment{reinterpret_cast<std::byte*>(values.data()), count};
          member.lane().start(member.world().allreduce(member.lane(), member.tag(), {&segment, 1},
                                                       {DType::kFloat32, ReduceOp::kMax}));
          HORA_WANT(drive_asleep(member), "slept through its operation");
          HORA_WANT_OK(member.lane().outcome());
          HORA_WANT(
              values.front() == static_cast<float>(size - 1 + i) && values.back() == values.front(),
              "wrong maximum");
        }
      }
      return "";
    });
  }
}

// Faults.

TEST(Tcp, NamesTheRankThatIsGone) {
  for (const size_t count : {4, 1'000'000}) {
    with_members(3, 2, [count](Member& member, Rank rank) -> std::string {
      Bytes values = floats(count, rank);
      HORA_WANT_OK(member.sum(values, member.tag()));
      if (rank == 2) return "";
      const Status status = member.sum(values, member.tag());
      HORA_WANT(status.code() == Code::kPeerLost, status.message());
      // Who sees it second may see the first one's connections end before.
      HORA_WANT(status.message().find("lost rank ") != std::string::npos, status.message());
      const Status again = member.sum(values, member.tag());
      HORA_WANT(again == status, again.message());
      return "";
    });
  }
}

/// What comes of a sum of 4 floats on rank 0 of two, whose peer is this test.
Status sum_against(const std::function<void(int socket)>& peer) {
  TcpPairs pairs(2, 1);
  tcp::Options options = support::tcp_options(0);
  options.streams = 1;
  options.operation_timeout = 300ms;
  Member member(tcp::open(pairs.dial(0), options), 2);
  tcp::Socket end = pairs.end(1, 0, 0);
  peer(end.get());
  Bytes values(4 * sizeof(float));
  return member.sum(values, kTag);
}

/// The message that must come, with a change.
Status sum_of_changed(const std::function<void(tcp::Header&)>& change) {
  return sum_against([&](int socket) {
    tcp::Header header{.epoch = 1, .tag = kTag, .channel = 0, .index = 0, .bytes = 16};
    change(header);
    char bytes[tcp::kHeaderBytes + 16] = {};
    std::memcpy(bytes, &header, tcp::kHeaderBytes);
    ASSERT_EQ(::send(socket, bytes, sizeof(bytes), 0), static_cast<ssize_t>(sizeof(bytes)));
  });
}

TEST(Tcp, TakesTheMessageThatMustCome) {
  EXPECT_EQ(sum_of_changed([](tcp::Header&) {}), Status());
}

TEST(Tcp, TakesAMessageByteByByte) {
  TcpPairs pairs(2, 1);
  tcp::Options options = support::tcp_options(0);
  options.streams = 1;
  Member member(tcp::open(pairs.dial(0), options), 2);
  tcp::Socket end = pairs.end(1, 0, 0);
  const tcp::Header header{.epoch = 1, .tag = kTag, .channel = 0, .index = 0, .bytes = 16};
  const float theirs[] = {1, 2, 3, 4};
  char bytes[tcp::kHeaderBytes + sizeof(theirs)];
  std::memcpy(bytes, &header, tcp::kHeaderBytes);
  std::memcpy(bytes + tcp::kHeaderBytes, theirs, sizeof(theirs));
  std::vector<float> mine = {10, 20, 30, 40};
  const Segment segment{reinterpret_cast<std::byte*>(mine.data()), mine.size()};
  member.lane().start(member.world().allreduce(member.lane(), kTag, {&segment, 1},
                                               {DType::kFloat32, ReduceOp::kSum}));
  for (const char& byte : bytes) {
    for (int turn = 0; turn < 10; ++turn) member.lane().progress();
    ASSERT_FALSE(member.lane().idle());
    ASSERT_EQ(::send(end.get(), &byte, 1, 0), 1);
  }
  Lane* const lanes[] = {&member.lane()};
  support::drive(lanes);
  EXPECT_EQ(member.lane().outcome(), Status());
  EXPECT_EQ(mine, (std::vector<float>{11, 22, 33, 44}));
}

TEST(Tcp, RefusesEveryOtherMessageAndNamesBothRanksAndBothOperations) {
  const std::vector<std::function<void(tcp::Header&)>> changes = {
      [](tcp::Header& header) { header.magic = 0x20544547; },
      [](tcp::Header& header) { header.epoch = 2; },
      [](tcp::Header& header) { header.tag = Tag::of(8, 0); },
      [](tcp::Header& header) { header.channel = 1; },
      [](tcp::Header& header) { header.channel = 0xFFFFFFFF; },
      [](tcp::Header& header) { header.index = 1; },
      [](tcp::Header& header) { header.bytes = 15; },
      [](tcp::Header& header) { header.bytes = ~uint64_t{0}; },
  };
  for (const auto& change : changes) EXPECT_EQ(sum_of_changed(change).code(), Code::kCorrupt);
  EXPECT_EQ(sum_of_changed(changes[2]).message(),
            "tcp: rank 1 sent message 0.0 of operation 0x80 of epoch 1, 16 bytes; rank 0 expected "
            "message 0.0 of operation 0x70 of epoch 1, 16 bytes");
}

TEST(Tcp, NamesAPeerThatFallsSilent) {
  const Status silent = sum_against([](int) {});
  EXPECT_EQ(silent.code(), Code::kPeerLost);
  EXPECT_EQ(silent.message(), "tcp: rank 0 heard nothing from rank 1 for 0.3 s in operation 0x70");
  const Status half = sum_against([](int socket) { ASSERT_EQ(::send(socket, "HRD", 3, 0), 3); });
  EXPECT_EQ(half, silent);
}

TEST(Tcp, NamesAPeerThatClosesInTheMiddleOfAMessage) {
  const Status status = sum_against([](int socket) {
    ASSERT_EQ(::send(socket, "HRD", 3, 0), 3);
    ::shutdown(socket, SHUT_WR);
  });
  EXPECT_EQ(status.code(), Code::kPeerLost);
  EXPECT_EQ(status.message(),
            "tcp: rank 0 lost rank 1 in operation 0x70: it closed the connection");
}

TEST(Tcp, SaysWhyThereIsNoConnection) {
  tcp::Dial dial{[](Rank, uint8_t) {},
                 [](Rank, uint8_t) -> Result<std::optional<tcp::Socket>> {
                   return Status(Code::kUnavailable, "no way there");
                 }};
  Member member(tcp::open(dial, support::tcp_options(0)), 2);
  Bytes values(4 * sizeof(float));
  const Status status = member.sum(values, kTag);
  EXPECT_EQ(status.code(), Code::kPeerLost);
  EXPECT_EQ(status.message(), "tcp: rank 0 has no connection to rank 1: no way there");
}

/// Both buffers of rank 0's connection to another host, after an operation over such a link.
std::set<int> buffers_between_hosts(double bytes_per_second) {
  TcpPairs pairs(2, 1);
  std::set<int> buffers;
  const auto body = [&](Rank rank) {
    int socket = -1;
    tcp::Dial dial = pairs.dial(rank);
    dial.take = [&socket, take = dial.take](Rank peer, uint8_t stream) {
      auto taken = take(peer, stream);
      const int bytes = 1 << 20;
      socket = taken.value()->get();
      for (const int buffer : {SO_SNDBUF, SO_RCVBUF})
        ::setsockopt(socket, SOL_SOCKET, buffer, &bytes, sizeof(bytes));
      return taken;
    };
    tcp::Options options = support::tcp_options(rank);
    options.streams = 1;
    options.hosts = {0, 1};
    options.link.bandwidth = bytes_per_second;
    Member member(tcp::open(dial, options), 2);
    Bytes values = floats(1000, rank);
    const Status status = member.sum(values, kTag);
    for (const int buffer : {SO_SNDBUF, SO_RCVBUF}) {
      int bytes = 0;
      socklen_t length = sizeof(bytes);
      ::getsockopt(socket, SOL_SOCKET, buffer, &bytes, &length);
      if (rank == 0) buffers.insert(bytes / 2);  // the system doubles what it is asked for
    }
    return status.message();
  };
  EXPECT_EQ(support::run_threads(2, body), "");
  return buffers;
}

TEST(Tcp, NearConnectionsBufferNoMoreThanTheirLinkNeeds) {
  EXPECT_EQ(buffers_between_hosts(1e9), (std::set<int>{512 << 10}));  // two hosts share a mebibyte
  EXPECT_EQ(buffers_between_hosts(20e6), (std::set<int>{200'000}));   // and 20 ms of 20 MB/s
  EXPECT_EQ(buffers_between_hosts(1e6), (std::set<int>{64 << 10}));   // but never less than this
}

}  // namespace
}  // namespace hora
