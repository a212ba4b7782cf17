// Control rings move whole frames, whatever their length, in order and exactly once, and refuse
// what no writer makes. A ring in private memory with both ends in this thread, then in two.
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "ops/shm/ring.h"

namespace hora::shm {
namespace {

std::string frame_of(size_t bytes, size_t seed) {
  std::string frame(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) frame[i] = static_cast<char>((i * 7 + seed * 13) & 127);
  return frame;
}

class ShmRing : public ::testing::Test {
 protected:
  std::vector<std::string> receive() {
    std::vector<std::string> frames;
    const Result<bool> came = in_.receive([&](std::string_view f) { frames.emplace_back(f); });
    EXPECT_TRUE(came.ok()) << came.status().message();
    return frames;
  }
  std::unique_ptr<Ring> ring_ = std::make_unique<Ring>();
  Outbox out_{ring_.get()};
  Inbox in_{ring_.get()};
};

TEST_F(ShmRing, KeepsFramesWholeWhereverTheRingWraps) {
  // Lengths that are coprime to the ring's put the wrap at every kind of place, prefix included.
  size_t seed = 0;
  for (int lap = 0; lap < 400; ++lap)
    for (const size_t bytes : {0u, 1u, 2u, 3u, 61u, 997u}) {
      const std::string frame = frame_of(bytes, ++seed);
      ASSERT_TRUE(out_.send(frame).ok());
      ASSERT_EQ(receive(), std::vector<std::string>{frame}) << "length " << bytes;
    }
}

TEST_F(ShmRing, CarriesFramesLargerThanTheRingInPieces) {
  const std::vector<std::string> sent{frame_of(3 * kRingBytes + 5, 1), frame_of(10, 2),
                                      frame_of(kRingBytes, 3)};
  for (const std::string& frame : sent) ASSERT_TRUE(out_.send(frame).ok());
  std::vector<std::string> got;
  for (int i = 0; i < 100 && got.size() < sent.size(); ++i) {
    for (std::string& frame : receive()) got.push_back(std::move(frame));
    out_.flush();
  }
  EXPECT_EQ(got, sent);
  EXPECT_TRUE(out_.empty());
}

TEST_F(ShmRing, RefusesMoreBacklogThanItsLimitAndKeepsWhatItTook) {
  const std::string frame = frame_of(1 << 20, 1);
  size_t taken = 0;
  Status status;
  while ((status = out_.send(frame)).ok() && taken < 200) ++taken;
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_EQ(taken, (kBacklogBytes + kRingBytes) / (frame.size() + 4));
  size_t got = 0;
  for (int i = 0; i < 100000 && got < taken; ++i) {
    for (const std::string& one : receive()) got += one == frame;
    out_.flush();
  }
  EXPECT_EQ(got, taken);
  EXPECT_TRUE(out_.send(frame).ok());
}

TEST_F(ShmRing, RefusesAFrameLongerThanTheLimit) {
  EXPECT_EQ(out_.send(std::string(kFrameBytes + 1, 'x')).code(), Code::kInvalidArgument);
  EXPECT_TRUE(receive().empty());
}

TEST_F(ShmRing, CallsALengthOrPositionThatNoWriterMakesCorrupt) {
  const auto ignore = [](std::string_view) { FAIL() << "a frame came out of garbage"; };
  std::memset(ring_->data, 0xff, 8);
  ring_->head.store(8);
  EXPECT_EQ(in_.receive(ignore).status().code(), Code::kCorrupt);
  const auto other = std::make_unique<Ring>();
  Inbox in(other.get());
  other->head.store(kRingBytes + 1);
  EXPECT_EQ(in.receive(ignore).status().code(), Code::kCorrupt);
}

TEST_F(ShmRing, GivesAnotherThreadTheSameFramesInTheSameOrder) {
  constexpr size_t kFrames = 3000;
  std::thread writer([&] {
    for (size_t i = 0; i < kFrames; ++i) EXPECT_TRUE(out_.send(frame_of(i * 37 % 4001, i)).ok());
    while (!out_.empty())
      if (!out_.flush()) std::this_thread::yield();
  });
  size_t next = 0;
  while (next < kFrames) {
    const auto frames = receive();
    if (frames.empty()) std::this_thread::yield();
    for (const std::string& frame : frames) {
      ASSERT_EQ(frame, frame_of(next * 37 % 4001, next));
      ++next;
    }
  }
  writer.join();
}

}  // namespace
}  // namespace hora::shm
