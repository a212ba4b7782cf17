#pragma once

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ops/shm/shm.h"

namespace hora::shm {

/// Stands for the job's store: one value for each rank, shared by threads and forked processes.
class Board {
 public:
  Board()
      : notes_(static_cast<Note*>(::mmap(nullptr, kRanks * sizeof(Note), PROT_READ | PROT_WRITE,
                                         MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Board() { ::munmap(notes_, kRanks * sizeof(Note)); }
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  Publish publish() {
    return [this](const std::string& key, const std::string& value) {
      Note& note = of(key);
      std::memcpy(note.text, value.c_str(), value.size() + 1);
      note.there.store(1, std::memory_order_release);
      return Status();
    };
  }
  Lookup lookup() {
    return
        [this](const std::string& key, std::chrono::milliseconds timeout) -> Result<std::string> {
          const auto end = std::chrono::steady_clock::now() + timeout;
          while (of(key).there.load(std::memory_order_acquire) == 0) {
            if (std::chrono::steady_clock::now() > end) return Status(Code::kTimeout, key);
            std::this_thread::yield();
          }
          return std::string(of(key).text);
        };
  }
  std::string text(Rank rank) {
    return lookup()(std::to_string(rank), std::chrono::seconds(5)).value();
  }
  void clear() { std::memset(static_cast<void*>(notes_), 0, kRanks * sizeof(Note)); }

 private:
  static constexpr size_t kRanks = 64;
  struct Note {
    std::atomic<int> there;
    char text[124];
  };
  Note& of(const std::string& key) {
    return notes_[std::stoul(key.substr(key.find_last_of('/') + 1))];
  }
  Note* const notes_;
};

inline Neighborhood::Options options_of(Rank rank, int ranks) {
  Neighborhood::Options options;
  options.job = "test";
  options.rank = rank;
  options.lanes = 2;
  options.arena_limit = 64 << 20;
  for (Rank other = 0; other < ranks; ++other) {
    options.ranks.push_back(other);
    if (other != rank) options.links.push_back(other);
  }
  return options;
}

inline Result<std::shared_ptr<Neighborhood>> meet(Board& board,
                                                  const Neighborhood::Options& options) {
  return Neighborhood::meet(options, board.publish(), board.lookup());
}

/// Runs `body` on `ranks` threads that have met.
inline void in_threads(int ranks, const std::function<void(std::shared_ptr<Neighborhood>)>& body) {
  Board board;
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto met = meet(board, options_of(rank, ranks));
      ASSERT_TRUE(met.ok()) << met.status().message();
      body(met.value());
    });
  for (std::thread& thread : threads) thread.join();
}

/// The same with forked processes; a failed expectation fails the test.
inline void in_processes(int ranks,
                         const std::function<void(std::shared_ptr<Neighborhood>)>& body) {
  Board board;
  std::vector<pid_t> children;
  for (Rank rank = 0; rank < ranks; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      {
        auto met = meet(board, options_of(rank, ranks));
        EXPECT_TRUE(met.ok()) << met.status().message();
        if (met.ok()) body(met.value());
      }
      ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0) << "of process " << child;
  }
}

/// Drives the lane as an engine would that goes to sleep at once: only bells wake it. Returns the
/// outcome, or kTimeout when nobody rang for ten seconds.
inline Status drive_asleep(Lane& lane, const Bell& bell) {
  while (!lane.idle()) {
    if (lane.progress()) continue;
    bell.arm();
    if (!lane.progress()) {
      pollfd one{bell.eventfd(), POLLIN, 0};
      if (::poll(&one, 1, 10000) != 1) return {Code::kTimeout, "nobody rang"};
      bell.drain();
    }
    bell.disarm();
  }
  return lane.outcome();
}

inline bool readable_within(int fd, int ms) {
  pollfd one{fd, POLLIN, 0};
  return ::poll(&one, 1, ms) == 1;
}

inline size_t open_descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

}  // namespace hora::shm
