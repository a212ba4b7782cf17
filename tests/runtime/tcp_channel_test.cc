// Goal: control frames between hosts arrive whole and in order, and whoever goes, stalls or sends
// nonsense is named. Method: one rank's channel; its neighbors are the other ends of socket pairs.
#include "runtime/tcp_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "ops/tcp/tls.h"
#include "tests/support/tcp_pairs.h"

namespace hora {
namespace {

using Frames = std::vector<std::pair<Rank, std::string>>;

std::string framed(const std::string& frame) {
  const auto length = static_cast<uint32_t>(frame.size());
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + frame;
}

/// Rank 0, with rank 1 on its own host and ranks 5 and 7 on others.
class TcpChannel : public testing::Test {
 protected:
  TcpChannel() {
    std::vector<TcpLink> links;
    for (const Rank rank : {5, 7}) {
      int ends[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
      links.push_back({rank, tcp::Socket(Descriptor(ends[0]))});
      (rank == 5 ? five_ : seven_) = Descriptor(ends[1]);
    }
    channel_ =
        open_tcp_channel(open_local_channel(local_, 0), std::move(links), [this] { ++forks_; });
  }

  Frames receive() {
    Frames frames;
    (void)channel_->receive(
        [&](Rank from, std::string_view frame) { frames.emplace_back(from, frame); });
    return frames;
  }

  /// Until `bytes` have come.
  static std::string read(const Descriptor& socket, size_t bytes) {
    std::string text(bytes, '\0');
    size_t have = 0;
    while (have < bytes) {
      const ssize_t got = ::recv(socket.get(), text.data() + have, bytes - have, 0);
      if (got <= 0) break;
      have += static_cast<size_t>(got);
    }
    text.resize(have);
    return text;
  }

  static void write(const Descriptor& socket, const std::string& text) {
    ASSERT_EQ(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  static bool readable(int descriptor) {
    pollfd entry{descriptor, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
  }

  bool somebody_died() const {
    for (const int descriptor : channel_->watched())
      if (readable(descriptor)) return true;
    return false;
  }

  std::shared_ptr<LocalChannels> local_ = make_local_channels(2);
  Descriptor five_, seven_;
  std::unique_ptr<ControlChannel> channel_;
  int forks_ = 0;
};

TEST_F(TcpChannel, SendsToEachRankWhereItIs) {
  ASSERT_TRUE(channel_->send(5, "to five").ok());
  ASSERT_TRUE(channel_->send(1, "inside").ok());
  ASSERT_TRUE(channel_->send(7, "").ok());
  EXPECT_TRUE(channel_->flush());
  EXPECT_EQ(read(five_, 11), framed("to five"));
  EXPECT_EQ(read(seven_, 4), framed(""));
  const auto inside = open_local_channel(local_, 1);
  Frames frames;
  (void)inside->receive(
      [&](Rank from, std::string_view frame) { frames.emplace_back(from, frame); });
  EXPECT_EQ(frames, (Frames{{0, "inside"}}));
}

TEST_F(TcpChannel, ReceivesWholeFramesHoweverTheyAreCut) {
  const std::string bytes = framed("first") + framed("") + framed(std::string(100'000, 'x'));
  Frames frames;
  for (size_t at = 0; at < bytes.size(); at += 3'001) {
    write(five_, bytes.substr(at, 3'001));
    for (auto& frame : receive()) frames.push_back(std::move(frame));
  }
  EXPECT_EQ(frames, (Frames{{5, "first"}, {5, ""}, {5, std::string(100'000, 'x')}}));
  for (const char c : framed("by bytes")) {
    write(seven_, std::string(1, c));
    for (auto& frame : receive()) frames.push_back(std::move(frame));
  }
  EXPECT_EQ(frames.back(), (std::pair<Rank, std::string>{7, "by bytes"}));
}

TEST_F(TcpChannel, WhoSleepsIsWokenByFramesFromOtherHosts) {
  EXPECT_FALSE(readable(channel_->arrivals()));
  write(seven_, framed("wake up"));
  EXPECT_TRUE(readable(channel_->arrivals()));
  EXPECT_EQ(receive(), (Frames{{7, "wake up"}}));
  EXPECT_FALSE(readable(channel_->arrivals()));
}

TEST_F(TcpChannel, KeepsWhatFindsNoRoomAndWakesWhenThereIs) {
  const std::string frame(50'000, 'y');
  std::string expected;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(channel_->send(5, frame + std::to_string(i)).ok());
    expected += framed(frame + std::to_string(i));
  }
  EXPECT_FALSE(channel_->flush());
  EXPECT_FALSE(readable(channel_->arrivals()));
  std::string got;
  while (got.size() < expected.size()) {
    std::string some(1'000'000, '\0');
    const ssize_t count = ::recv(five_.get(), some.data(), some.size(), MSG_DONTWAIT);
    if (count > 0) {
      got.append(some.data(), static_cast<size_t>(count));
      continue;
    }
    ASSERT_TRUE(readable(channel_->arrivals()));  // all was read: there is room
    (void)channel_->flush();
  }
  EXPECT_EQ(got, expected);
  EXPECT_TRUE(channel_->flush());
  EXPECT_FALSE(readable(channel_->arrivals()));
}

TEST_F(TcpChannel, ANeighborThatDoesNotReadIsAnErrorAtTheLimitAndHoldsUpNobody) {
  const std::string frame(size_t{1} << 20, 'z');
  Status status;
  int sent = 0;
  for (; sent < 100 && status.ok(); ++sent) status = channel_->send(5, frame);
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_LE(sent, 66);
  EXPECT_TRUE(channel_->send(7, "still").ok());
  EXPECT_EQ(read(seven_, 9), framed("still"));
  EXPECT_EQ(channel_->send(7, std::string((size_t{64} << 20) + 1, 'z')).code(),
            Code::kInvalidArgument);
}

TEST_F(TcpChannel, ANeighborThatGoesIsNamedOnceAfterItsLastFrames) {
  write(five_, framed("good-bye") + framed("half").substr(0, 6));
  five_.reset();
  EXPECT_EQ(receive(), (Frames{{5, "good-bye"}}));
  EXPECT_TRUE(receive().empty());
  EXPECT_TRUE(somebody_died());
  const auto lost = channel_->lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].rank, 5);
  EXPECT_EQ(lost[0].cause, "it closed its connection");
  EXPECT_TRUE(channel_->lost().empty());
  EXPECT_FALSE(readable(channel_->arrivals()));
  EXPECT_TRUE(channel_->send(5, "into the void").ok());
  EXPECT_TRUE(channel_->flush());
}

TEST_F(TcpChannel, ANeighborThatClosesOnlyItsSideIsLostToo) {
  ::shutdown(seven_.get(), SHUT_WR);
  EXPECT_TRUE(receive().empty());
  EXPECT_TRUE(somebody_died());
  ASSERT_EQ(channel_->lost().size(), 1u);
}

TEST_F(TcpChannel, WhatANeighborSaidCountsEvenIfItNoLongerListens) {
  write(five_, framed("abort"));
  ::shutdown(five_.get(), SHUT_RD);
  EXPECT_TRUE(channel_->send(5, "nobody hears this").ok());
  EXPECT_TRUE(channel_->flush());
  EXPECT_EQ(receive(), (Frames{{5, "abort"}}));
}

TEST_F(TcpChannel, AnImpossibleLengthNamesItsSender) {
  write(five_, framed("fine") + std::string("\xff\xff\xff\x7f", 4));
  EXPECT_EQ(receive(), (Frames{{5, "fine"}}));
  const auto lost = channel_->lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].rank, 5);
  EXPECT_EQ(lost[0].cause, "protocol: a control frame claims 2147483647 bytes");
  EXPECT_TRUE(channel_->corrupt().ok());
}

TEST_F(TcpChannel, AForkedChildHoldsNothing) {
  channel_->forget_in_child();
  EXPECT_EQ(forks_, 1);
  EXPECT_EQ(read(five_, 1), "");  // closed
}

/// A neighbor over a connection that is encrypted.
TEST(EncryptedTcpChannel, DeliversFramesThatCameWithTheHandshakesLastWords) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  auto [mine, theirs] =
      support::encrypt(Descriptor(ends[0]), Descriptor(ends[1]), tcp::TlsKey::kRenewAfterBytes);
  ASSERT_EQ(theirs.write("accept" + framed("first") + framed("second")), 25);
  char accept[6];
  ASSERT_EQ(mine.read(accept, sizeof(accept)), 6);
  pollfd entry{mine.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, 0), 0) << "the system has nothing left, so nobody will be told";
  std::vector<TcpLink> links;
  links.push_back({5, std::move(mine)});
  const auto local = make_local_channels(1);
  const auto channel = open_tcp_channel(open_local_channel(local, 0), std::move(links));
  Frames frames;
  const auto visit = [&](Rank from, std::string_view frame) { frames.emplace_back(from, frame); };
  EXPECT_TRUE(channel->receive(visit));
  EXPECT_EQ(frames, (Frames{{5, "first"}, {5, "second"}}));
  EXPECT_FALSE(channel->receive(visit));

  ASSERT_TRUE(channel->send(5, "answer").ok());
  EXPECT_TRUE(channel->flush());
  std::string answer(10, '\0');
  EXPECT_EQ(theirs.read(answer.data(), answer.size()), 10);
  EXPECT_EQ(answer, framed("answer"));
  theirs.reset();
  EXPECT_FALSE(channel->receive(visit));
  const auto lost = channel->lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].rank, 5);
  EXPECT_EQ(lost[0].cause, "it closed its connection");
}

}  // namespace
}  // namespace hora
