// Ranks of one host find each other, whatever else knocks; tell each other control frames; learn of
// a death and its cause, also when the dead process has children; and leave nothing behind.
#include <signal.h>

#include <fstream>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "ops/shm/neighborhood.h"
#include "tests/ops/shm_ranks.h"

namespace hora::shm {
namespace {

using std::chrono::milliseconds;

void exchange_frames(const std::shared_ptr<Neighborhood>& near) {
  const Rank me = near->options().rank;
  const size_t peers = near->options().links.size();
  constexpr size_t kLengths[] = {0, 5, 70000, 300000, 12};
  for (const Rank to : near->options().links)
    for (const size_t length : kLengths)
      ASSERT_TRUE(near->send(to, std::string(length, static_cast<char>('a' + me))).ok());
  std::vector<size_t> got(near->options().ranks.size());
  size_t whole = 0;
  const auto visit = [&](Rank from, std::string_view frame) {
    const size_t length = kLengths[got[static_cast<size_t>(from)]++];
    EXPECT_EQ(frame, std::string(length, static_cast<char>('a' + from)));
    ++whole;
  };
  const auto done = [&] { return whole == peers * std::size(kLengths) && near->flushed(); };
  const auto work = [&] {
    near->flush();
    return near->receive(visit).value();
  };
  const Bell bell = near->bell(me);
  while (!done()) {
    if (work()) continue;
    bell.arm();
    if (!work() && !done()) {
      ASSERT_TRUE(readable_within(bell.eventfd(), 10000)) << "nobody rang";
    }
    bell.disarm();
    bell.drain();
  }
}

TEST(ShmNeighborhood, CarriesFramesBetweenThreadsWhoseDriversSleep) {
  in_threads(4, exchange_frames);
}
TEST(ShmNeighborhood, CarriesFramesBetweenProcessesWhoseDriversSleep) {
  in_processes(4, exchange_frames);
}

TEST(ShmNeighborhood, MeetsAlone) {
  Board board;
  const auto met = meet(board, options_of(0, 1));
  ASSERT_TRUE(met.ok()) << met.status().message();
  EXPECT_TRUE(met.value()->watches().empty());
}

TEST(ShmNeighborhood, NamesTheRankThatDoesNotCome) {
  Board board;
  std::vector<std::thread> threads;
  for (const Rank rank : {0, 2})
    threads.emplace_back([&, rank] {
      auto options = options_of(rank, 3);
      options.timeout = milliseconds(300);
      const auto met = meet(board, options);
      EXPECT_EQ(met.status().code(), Code::kTimeout) << met.status().message();
      EXPECT_NE(met.status().message().find("rank 1"), std::string::npos) << met.status().message();
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(ShmNeighborhood, RefusesNonsenseOptions) {
  Board board;
  auto unsorted = options_of(0, 2);
  std::swap(unsorted.ranks[0], unsorted.ranks[1]);
  EXPECT_EQ(meet(board, unsorted).status().code(), Code::kInvalidArgument);
  auto stranger = options_of(0, 2);
  stranger.links = {7};
  EXPECT_EQ(meet(board, stranger).status().code(), Code::kInvalidArgument);
}

int knock(const std::string& name) {
  const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), bytes), 0);
  return socket;
}

TEST(ShmNeighborhood, IgnoresStrangersThatHangUpSayNothingOrTalkGarbage) {
  Board board;
  std::vector<std::shared_ptr<Neighborhood>> met(2);
  std::thread first([&] { met[0] = meet(board, options_of(0, 2)).value(); });
  const std::string name = board.text(0);
  const int silent = knock(name), garbage = knock(name);
  ::close(knock(name));
  const std::string noise(5000, 'x');
  EXPECT_GT(::send(garbage, noise.data(), noise.size(), MSG_NOSIGNAL), 0);
  std::thread second([&] { met[1] = meet(board, options_of(1, 2)).value(); });
  first.join();
  second.join();
  EXPECT_TRUE(met[0] && met[1]);
  ::close(silent);
  ::close(garbage);
}

TEST(ShmNeighborhood, DoesNotMixEpochs) {
  Board board;
  std::thread late([&] {
    auto options = options_of(1, 2);
    options.epoch = 2;
    options.timeout = milliseconds(300);
    EXPECT_FALSE(meet(board, options).ok());
  });
  auto options = options_of(0, 2);
  options.timeout = milliseconds(300);
  const auto met = meet(board, options);
  EXPECT_EQ(met.status().code(), Code::kTimeout) << met.status().message();
  late.join();
}

/// Rank 0 here, rank 1 in a child that does `fate` once both have met.
void with_doomed_peer(const std::function<void()>& fate,
                      const std::function<void(Neighborhood&, pid_t)>& then) {
  Board board;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto met = meet(board, options_of(1, 2));
    if (!met.ok() || !met.value()->send(0, "here").ok()) ::_exit(99);
    fate();
    ::_exit(98);
  }
  const auto met = meet(board, options_of(0, 2));
  ASSERT_TRUE(met.ok()) << met.status().message();
  bool here = false;
  while (!here) {
    (void)met.value()->receive([&](Rank, std::string_view) { here = true; });
    std::this_thread::yield();
  }
  then(*met.value(), child);
}

std::string wait_for_death(Neighborhood& near) {
  std::vector<pollfd> fds;
  const auto watches = near.watches();
  EXPECT_EQ(watches.size(), 2u);
  for (const auto& watch : watches) {
    EXPECT_EQ(watch.rank, 1);
    fds.push_back({watch.fd, POLLIN, 0});
  }
  EXPECT_GE(::poll(fds.data(), fds.size(), 10000), 1);
  EXPECT_TRUE(readable_within(watches[0].fd, 10000)) << "the pidfd follows";
  return near.died(watches[0].fd);
}

TEST(ShmNeighborhood, TellsASignalFromAnExit) {
  with_doomed_peer(
      [] { ::pause(); },
      [](Neighborhood& near, pid_t child) {
        for (const auto& watch : near.watches()) EXPECT_FALSE(readable_within(watch.fd, 0));
        ::kill(child, SIGKILL);
        const std::string who = "process " + std::to_string(child);
        EXPECT_EQ(wait_for_death(near), who + " was killed by signal 9 (Killed)");
        ::waitpid(child, nullptr, 0);
        const std::string later = near.died(near.watches()[0].fd);
        EXPECT_TRUE(later == who + " was killed by signal 9 (Killed)" || later == who + " is gone")
            << later;
      });
  with_doomed_peer([] { ::_exit(3); },
                   [](Neighborhood& near, pid_t child) {
                     EXPECT_EQ(wait_for_death(near),
                               "process " + std::to_string(child) + " exited with code 3");
                     ::waitpid(child, nullptr, 0);
                   });
}

TEST(ShmNeighborhood, SeesADeathThoughAGrandchildHoldsEveryDescriptor) {
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  with_doomed_peer(
      [&] {
        const pid_t grandchild = ::fork();
        if (grandchild == 0) {  // like a DataLoader worker: outlives its parent, touches nothing
          char byte = 0;
          ::close(pipe[1]);
          [[maybe_unused]] const auto got = ::read(pipe[0], &byte, 1);
          ::_exit(0);
        }
        ::kill(::getpid(), SIGKILL);
      },
      [](Neighborhood& near, pid_t child) {
        EXPECT_EQ(wait_for_death(near),
                  "process " + std::to_string(child) + " was killed by signal 9 (Killed)");
        ::waitpid(child, nullptr, 0);
      });
  ::close(pipe[1]);
  ::close(pipe[0]);
}

TEST(ShmNeighborhood, ForgetsItselfInAForkedChild) {
  in_threads(2, [](const std::shared_ptr<Neighborhood>& near) {
    if (near->options().rank != 0) return;
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      near->forget_in_child();
      bool gone = true;
      for (const auto& watch : near->watches()) gone &= watch.fd < 0;
      ::_exit(gone ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    ::close(pipe[0]);
    ::close(pipe[1]);
    EXPECT_TRUE(near->arena().allocate(100).ok()) << "the parent's is whole";
  });
}

TEST(ShmNeighborhood, ThreadsSeeEachOtherHangUp) {
  Board board;
  std::shared_ptr<Neighborhood> mine;
  std::thread other([&] {
    const auto met = meet(board, options_of(1, 2));
    EXPECT_TRUE(met.ok());
  });
  mine = meet(board, options_of(0, 2)).value();
  other.join();
  ASSERT_EQ(mine->watches().size(), 1u);
  EXPECT_TRUE(readable_within(mine->watches()[0].fd, 10000));
  EXPECT_EQ(mine->died(mine->watches()[0].fd),
            "process " + std::to_string(::getpid()) + " hung up");
}

size_t mapped_memory_files() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);)
    count += line.find("memfd:hora") != std::string::npos;
  return count;
}

TEST(ShmNeighborhood, LeavesNoDescriptorOrMappingAfterManyMeetings) {
  const size_t before = open_descriptors(), mapped = mapped_memory_files();
  for (int i = 0; i < 200; ++i) in_threads(2, [](const std::shared_ptr<Neighborhood>&) {});
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(mapped_memory_files(), mapped);
}

}  // namespace
}  // namespace hora::shm
