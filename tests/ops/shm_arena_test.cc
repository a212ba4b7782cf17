// The arena gives out aligned, zeroed memory that peers see, grows by need, and says so when it
// can't, instead of dying by a signal. Limits are tried in forked processes.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "ops/shm/arena.h"
#include "tests/ops/shm_ranks.h"

namespace hora::shm {
namespace {

TEST(ShmArena, GivesOutAlignedZeroedMemoryThatDoesNotOverlap) {
  auto arena = Arena::create(64 << 20).value();
  std::byte* end = nullptr;
  for (const size_t bytes : {1u, 63u, 64u, 65u, 4096u, 5000u, 1u << 20, 7u, 3u << 20}) {
    const auto got = arena->allocate(bytes);
    ASSERT_TRUE(got.ok()) << got.status().message();
    std::byte* data = got.value().data();
    EXPECT_EQ(got.value().size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % (bytes >= page_bytes() ? page_bytes() : 64), 0u);
    EXPECT_GE(data, end);
    EXPECT_TRUE(std::all_of(data, data + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(data, 0xff, bytes);
    end = data + bytes;
  }
}

TEST(ShmArena, RefusesMoreThanItsLimitAndGoesOnAfterwards) {
  auto arena = Arena::create(1 << 20).value();
  EXPECT_EQ(arena->allocate((1 << 20) + 1).status().code(), Code::kOutOfMemory);
  EXPECT_EQ(arena->allocate(~size_t{0}).status().code(), Code::kOutOfMemory);
  EXPECT_TRUE(arena->allocate(1 << 19).ok());
  EXPECT_EQ(arena->allocate((1 << 19) + 1).status().code(), Code::kOutOfMemory);
  EXPECT_TRUE(arena->allocate(1 << 19).ok());
}

TEST(ShmArena, TurnsAFileSizeLimitIntoAStatusRatherThanASignal) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{2 << 20, 2 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    auto arena = Arena::create(64 << 20).value();
    const bool small = arena->allocate(1 << 20).ok();
    const bool refused = arena->allocate(4 << 20).status().code() == Code::kOutOfMemory;
    ::_exit(small && refused ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(ShmArena, ShowsPeersWhatWasAllocatedAfterTheyMet) {
  in_processes(2, [](const std::shared_ptr<Neighborhood>& near) {
    const Rank me = near->options().rank;
    int looks = 0;
    const auto visit = [&](Rank, std::string_view) { ++looks; };
    for (int turn = 0; turn < 3; ++turn) {  // each turn grows the file
      const auto mine = near->arena().allocate(3 << 20);
      ASSERT_TRUE(mine.ok());
      std::memset(mine.value().data(), 10 * turn + me + 1, mine.value().size());
      ASSERT_TRUE(near->send(1 - me, "look").ok());
      while (looks <= turn) {
        ASSERT_TRUE(near->receive(visit).ok());
        ::sched_yield();
      }
      const std::byte* theirs = near->arena_of(1 - me) + turn * (3 << 20);
      EXPECT_EQ(theirs[0], std::byte(10 * turn + 2 - me));
      EXPECT_EQ(theirs[(3 << 20) - 1], std::byte(10 * turn + 2 - me));
    }
  });
}

}  // namespace
}  // namespace hora::shm
