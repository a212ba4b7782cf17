// Goal: the Gloo plug-in computes what ops/backend.h defines, survives strangers at set-up, reports
// a dead or absent member in bounded time, and leaves nothing behind. Method: ranks as threads over
// loopback, each with a backend of its own and a shared store in memory, compared bit by bit with
// the reduction kernel; processes where death is the subject. Also registers Gloo with the
// conformance suite.
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <semaphore>
#include <thread>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ops/kernels/reduce.h"
#include "ops/plugin.h"
#include "runtime/store.h"
#include "tests/support/backend_fixture.h"

namespace hora {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

bool gloo_is_here() {
  PluginContext empty;
  const auto backend = load_backend("gloo", empty);
  return backend.ok() || backend.status().code() != Code::kUnavailable;
}

/// One rank: its backend, and a lane to drive.
class Peer {
 public:
  explicit Peer(PluginContext context) {
    context.ring = [this] { bell_.release(); };
    auto backend = load_backend("gloo", context);
    if (!backend.ok()) ADD_FAILURE() << backend.status().message();
    if (backend.ok()) backend_ = std::move(backend).value();
  }

  void open(int size) {
    std::vector<Rank> ranks;
    for (int rank = 0; rank < size; ++rank) ranks.push_back(rank);
    auto communicator = backend_->communicator(0, ranks, 0);
    ASSERT_TRUE(communicator.ok()) << communicator.status().message();
    communicator_ = std::move(communicator).value();
  }

  Communicator& communicator() { return *communicator_; }
  Lane& lane() { return lane_; }
  uint64_t next_tag() { return ++tag_; }

  Status run(Ticket ticket) {
    lane_.start(std::move(ticket));
    while (!lane_.idle()) {
      (void)bell_.try_acquire_for(20ms);
      lane_.progress();
    }
    return lane_.outcome();
  }

 private:
  std::counting_semaphore<> bell_{0};
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  Lane lane_{0};
  uint64_t tag_ = 0;
};

PluginContext context_for(Store& store, Rank rank, int size) {
  PluginContext context;
  context.rank = rank;
  context.size = size;
  context.job = "test";
  context.publish = [&store](std::string_view key, std::string_view value) {
    return store.set(key, value);
  };
  context.lookup = [&store](std::string_view key, std::chrono::milliseconds timeout) {
    return store.get(key, timeout);
  };
  return context;
}

support::Opener prepare_gloo(int size) {
  return [store = make_memory_store(), size](Rank rank) {
    PluginContext context = context_for(*store, rank, size);
    context.ring = [] {};
    return load_backend("gloo", context);
  };
}

const bool kRegistered = support::add_backend_case(
    {.name = "gloo",
     .prepare = prepare_gloo,
     .unavailable = [] { return gloo_is_here() ? "" : "libhora_gloo.so was not built"; },
     .slowness = 10});

support::Opener prepare_gloo_processes(int size) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("hora_gloo_" + std::to_string(::getpid())))
          .string();
  auto server = StoreServer::start(path);
  HORA_CHECK(server.ok(), server.status().message());
  return [server = std::shared_ptr<StoreServer>(std::move(server).value()), size,
          own = std::make_shared<std::shared_ptr<Store>>()](
             Rank rank) -> Result<std::unique_ptr<Backend>> {
    auto store = connect_store(server->address(), 20s);
    if (!store.ok()) return store.status();
    *own = std::move(store).value();  // this process's
    PluginContext context = context_for(**own, rank, size);
    context.ring = [] {};
    return load_backend("gloo", context);
  };
}

const bool kProcesses = support::add_backend_case(
    {.name = "gloo_processes",
     .prepare = prepare_gloo_processes,
     .processes = true,
     .unavailable = [] { return gloo_is_here() ? "" : "libhora_gloo.so was not built"; },
     .slowness = 10});

using Change = std::function<void(PluginContext&)>;

/// Runs `body` once for each rank, each on its own thread with its own backend.
void with_ranks(int size, const std::function<void(Peer&, int)>& body, const Change& change = {}) {
  const std::shared_ptr<Store> store = make_memory_store();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      PluginContext context = context_for(*store, rank, size);
      if (change) change(context);
      Peer peer(std::move(context));
      peer.open(size);
      body(peer, rank);
    });
  for (std::thread& thread : threads) thread.join();
}

/// Any bits, but numbers that cannot overflow or be NaN: small integers of the type.
Bytes numbers(DType dtype, size_t count, int rank) {
  Bytes bytes(count * bytes_of(dtype));
  for (size_t i = 0; i < count; ++i) {
    const int value = static_cast<int>((i * 7 + static_cast<size_t>(rank) * 13) % 5) + 1;
    const auto store = [&](auto number) {
      std::memcpy(bytes.data() + i * sizeof(number), &number, sizeof(number));
    };
    switch (dtype) {
      case DType::kUInt8:
      case DType::kInt8:
        store(static_cast<int8_t>(value));
        break;
      case DType::kInt16:
        store(static_cast<int16_t>(value));
        break;
      case DType::kInt32:
        store(static_cast<int32_t>(value));
        break;
      case DType::kInt64:
        store(static_cast<int64_t>(value));
        break;
      // Not exact sums: 0.1 steps around a power of two, so that order and rounding show.
      case DType::kFloat16:
        store(static_cast<uint16_t>(0x3c00 + 37 * value));
        break;
      case DType::kBFloat16:
        store(static_cast<uint16_t>(0x3f80 + 5 * value));
        break;
      case DType::kFloat32:
        store(1.0f / static_cast<float>(value + rank));
        break;
      case DType::kFloat64:
        store(1.0 / (value + rank));
        break;
      case DType::kBool:
        store(static_cast<uint8_t>(value > 4));
        break;
    }
  }
  return bytes;
}

/// What the contract says the ranks compute.
Bytes expected(const Reduction& reduction, size_t count, int size) {
  std::vector<Bytes> inputs;
  std::vector<const std::byte*> pointers;
  for (int rank = 0; rank < size; ++rank) inputs.push_back(numbers(reduction.dtype, count, rank));
  for (const Bytes& input : inputs) pointers.push_back(input.data());
  Bytes output(count * bytes_of(reduction.dtype));
  std::byte* const to = output.data();
  reduce(reduction, pointers, std::span<std::byte* const>(&to, 1), count);
  return output;
}

/// `parts` runs that begin elsewhere on every rank.
std::vector<Segment> cut(Bytes& data, DType dtype, int parts, int rank) {
  const size_t count = data.size() / bytes_of(dtype);
  std::vector<Segment> segments;
  size_t at = 0;
  for (int part = 0; part < parts; ++part) {
    const size_t left = count - at;
    const size_t here =
        part + 1 == parts ? left : std::min(left, count / 4 + static_cast<size_t>(rank));
    segments.push_back({data.data() + at * bytes_of(dtype), here});
    at += here;
  }
  return segments;
}

class Gloo : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!gloo_is_here()) GTEST_SKIP() << "libhora_gloo.so was not built";
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, Gloo, testing::Values(1, 2, 3, 4));

TEST_P(Gloo, AllreduceGivesTheContractsBitsForEveryTypeAndOperation) {
  const int size = GetParam();
  with_ranks(size, [size](Peer& peer, int rank) {
    for (size_t type = 0; type < kDTypes; ++type)
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin, ReduceOp::kMax,
                                ReduceOp::kProduct}) {
        const auto dtype = static_cast<DType>(type);
        if (dtype == DType::kBool && op == ReduceOp::kAverage) continue;
        const Reduction reduction{dtype, op, is_float(dtype) ? 0.5 : 1, is_float(dtype) ? 3.0 : 1};
        for (const size_t count : {size_t{1}, size_t{999}, size_t{20'001}}) {
          Bytes data = numbers(dtype, count, rank);
          const auto segments = cut(data, dtype, count == 999 ? 1 : 3, rank);
          const Status status = peer.run(
              peer.communicator().allreduce(peer.lane(), peer.next_tag(), segments, reduction));
          ASSERT_TRUE(status.ok()) << status.message();
          ASSERT_TRUE(data == expected(reduction, count, size))
              << name_of(dtype) << " " << name_of(op) << " " << count << " rank " << rank;
        }
      }
  });
}

TEST_P(Gloo, AllreduceOfManyChunksGivesTheContractsBits) {
  const int size = GetParam();
  const Reduction reduction{DType::kFloat32, ReduceOp::kAverage, 1, 1};
  const size_t count = 2'000'003;
  const Bytes right = expected(reduction, count, size);
  with_ranks(size, [&](Peer& peer, int rank) {
    for (int round = 0; round < 3; ++round) {
      Bytes data = numbers(DType::kFloat32, count, rank);
      const auto segments = cut(data, DType::kFloat32, 1, rank);
      const Status status = peer.run(
          peer.communicator().allreduce(peer.lane(), peer.next_tag(), segments, reduction));
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(data == right) << "rank " << rank;
    }
  });
}

TEST_P(Gloo, ReduceScatterGivesEachMemberItsUnevenPart) {
  const int size = GetParam();
  const Reduction reduction{DType::kBFloat16, ReduceOp::kSum, 1, 1};
  std::vector<size_t> counts;
  size_t total = 0;
  for (int rank = 0; rank < size; ++rank) {
    counts.push_back(rank == 1 ? 0 : 400'000 / static_cast<size_t>(rank + 1));
    total += counts.back();
  }
  const Bytes right = expected(reduction, total, size);
  with_ranks(size, [&](Peer& peer, int rank) {
    const Bytes input = numbers(DType::kBFloat16, total, rank), before = input;
    Bytes output(counts[static_cast<size_t>(rank)] * 2);
    const Status status = peer.run(peer.communicator().reduce_scatter(
        peer.lane(), peer.next_tag(), input.data(), output.data(), counts, reduction));
    ASSERT_TRUE(status.ok()) << status.message();
    size_t at = 0;
    for (int before_us = 0; before_us < rank; ++before_us)
      at += counts[static_cast<size_t>(before_us)];
    ASSERT_TRUE(output == Bytes(right.begin() + static_cast<ptrdiff_t>(2 * at),
                                right.begin() + static_cast<ptrdiff_t>(2 * at + output.size())));
    ASSERT_TRUE(input == before) << "the input changed";
  });
}

std::byte mark(int from, int to, size_t at) {
  return static_cast<std::byte>(from * 31 + to * 7 + static_cast<int>(at % 101));
}

TEST_P(Gloo, AllgatherPutsUnevenPartsInOrder) {
  const int size = GetParam();
  std::vector<size_t> bytes;
  for (int rank = 0; rank < size; ++rank)
    bytes.push_back(static_cast<size_t>(rank % 2) * 70'000 + 3);
  with_ranks(size, [&](Peer& peer, int rank) {
    for (const bool in_place : {false, true}) {
      size_t total = 0, own = 0;
      for (int r = 0; r < size; ++r) {
        if (r == rank) own = total;
        total += bytes[static_cast<size_t>(r)];
      }
      Bytes output(total), input(bytes[static_cast<size_t>(rank)]);
      std::byte* const mine = in_place ? output.data() + own : input.data();
      for (size_t i = 0; i < input.size(); ++i) mine[i] = mark(rank, 0, i);
      const Status status = peer.run(
          peer.communicator().allgather(peer.lane(), peer.next_tag(), mine, output.data(), bytes));
      ASSERT_TRUE(status.ok()) << status.message();
      const std::byte* at = output.data();
      for (int r = 0; r < size; ++r)
        for (size_t i = 0; i < bytes[static_cast<size_t>(r)]; ++i) ASSERT_EQ(*at++, mark(r, 0, i));
    }
  });
}

TEST_P(Gloo, AlltoallDeliversEveryPartToItsMember) {
  const int size = GetParam();
  // Rank 0 sends nothing to the last; others different amounts.
  const auto amount = [size](int from, int to) {
    return from == 0 && to == size - 1 ? size_t{0} : static_cast<size_t>(from * 1000 + to * 10 + 1);
  };
  with_ranks(size, [&](Peer& peer, int rank) {
    std::vector<size_t> send, receive;
    Bytes input;
    size_t total = 0;
    for (int other = 0; other < size; ++other) {
      send.push_back(amount(rank, other));
      receive.push_back(amount(other, rank));
      total += receive.back();
      for (size_t i = 0; i < send.back(); ++i) input.push_back(mark(rank, other, i));
    }
    Bytes output(total);
    const Status status = peer.run(peer.communicator().alltoall(
        peer.lane(), peer.next_tag(), input.data(), send, output.data(), receive));
    ASSERT_TRUE(status.ok()) << status.message();
    const std::byte* at = output.data();
    for (int other = 0; other < size; ++other)
      for (size_t i = 0; i < receive[static_cast<size_t>(other)]; ++i)
        ASSERT_EQ(*at++, mark(other, rank, i));
  });
}

TEST_P(Gloo, BroadcastCopiesFromEveryRoot) {
  const int size = GetParam();
  with_ranks(size, [size](Peer& peer, int rank) {
    for (int root = 0; root < size; ++root)
      for (const size_t bytes : {size_t{0}, size_t{1}, size_t{1'500'001}}) {
        Bytes data(bytes, static_cast<std::byte>(0xee));
        if (rank == root)
          for (size_t i = 0; i < bytes; ++i) data[i] = mark(root, 0, i);
        const auto segments = cut(data, DType::kUInt8, root % 2 == 0 ? 1 : 3, rank);
        const Status status =
            peer.run(peer.communicator().broadcast(peer.lane(), peer.next_tag(), segments, root));
        ASSERT_TRUE(status.ok()) << status.message();
        for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], mark(root, 0, i)) << i;
      }
  });
}

TEST_P(Gloo, NobodyPassesABarrierBeforeAllHaveCome) {
  const int size = GetParam();
  std::atomic<int> arrived{0};
  with_ranks(size, [&](Peer& peer, int) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      const Status status = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_GE(arrived.load(), round * size);
    }
  });
}

TEST_P(Gloo, AMemberMayLeaveRightAfterItsLastOperation) {
  const int size = GetParam();
  for (int round = 0; round < 5; ++round)
    with_ranks(size, [&](Peer& peer, int rank) {
      Bytes data(3'000'000, static_cast<std::byte>(rank));
      const std::vector<Segment> segments{{data.data(), data.size()}};
      const Status status =
          peer.run(peer.communicator().broadcast(peer.lane(), peer.next_tag(), segments, 0));
      ASSERT_TRUE(status.ok()) << status.message();
      for (const std::byte value : data) ASSERT_EQ(value, std::byte{0});
    });
}

// What goes wrong.

class GlooTrouble : public Gloo {};
INSTANTIATE_TEST_SUITE_P(Ranks, GlooTrouble, testing::Values(3));

TEST_P(GlooTrouble, AnAbortEndsAWaitForAMemberThatNeverComes) {
  std::binary_semaphore aborted{0};
  with_ranks(2, [&](Peer& peer, int rank) {
    ASSERT_TRUE(peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag())).ok());
    if (rank == 0) {
      aborted.acquire();
      const Status status = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
      EXPECT_EQ(status.code(), Code::kPeerLost) << status.message();
      return;
    }
    peer.lane().start(peer.communicator().barrier(peer.lane(), peer.next_tag()));
    const Status why(Code::kPeerLost, "rank 7 is gone");
    peer.lane().abort(why);
    peer.communicator().abort();
    while (!peer.lane().idle()) peer.lane().progress();
    EXPECT_EQ(peer.lane().outcome(), why);
    EXPECT_EQ(peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag())), why);
    aborted.release();
  });
}

TEST_P(GlooTrouble, AnAbortEndsSetUpToo) {
  with_ranks(GetParam(), [](Peer& peer, int rank) {
    if (rank == 2) return;  // never sets up
    peer.lane().start(peer.communicator().barrier(peer.lane(), peer.next_tag()));
    const Status why(Code::kPeerLost, "rank 2 is gone");
    peer.lane().abort(why);
    peer.communicator().abort();
    while (!peer.lane().idle()) peer.lane().progress();
    EXPECT_EQ(peer.lane().outcome(), why);
  });
}

TEST_P(GlooTrouble, SetUpNamesTheRankThatNeverCame) {
  with_ranks(
      GetParam(),
      [](Peer& peer, int rank) {
        if (rank == 1) return;
        const Status status = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
        EXPECT_EQ(status.code(), Code::kTimeout);
        EXPECT_NE(status.message().find("rank 1 did not come"), std::string::npos)
            << status.message();
        const Status again = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
        EXPECT_EQ(again, status);
      },
      [](PluginContext& context) { context.setup_timeout = 300ms; });
}

TEST_P(GlooTrouble, ASilentMemberIsATimeout) {
  std::binary_semaphore others_ended{0};
  with_ranks(
      2,
      [&](Peer& peer, int rank) {
        ASSERT_TRUE(peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag())).ok());
        if (rank == 1) return others_ended.acquire();
        const Status status = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
        EXPECT_EQ(status.code(), Code::kTimeout);
        EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
        others_ended.release();
      },
      [](PluginContext& context) { context.operation_timeout = 300ms; });
}

enum class Manner { kLeaves, kResets, kSendsGarbage };

/// Connects to every port in a published list of addresses, before the peers can.
std::vector<int> intrude(std::string_view addresses, int ports, Manner manner) {
  std::vector<int> sockets;
  const size_t length = addresses.size() / static_cast<size_t>(ports);
  for (int i = 0; i < ports; ++i) {
    sockaddr_in address{};
    std::memcpy(&address, addresses.data() + static_cast<size_t>(i) * length, sizeof(address));
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    if (manner == Manner::kSendsGarbage) {
      const std::string noise(64, '\xff');
      (void)::send(fd, noise.data(), noise.size(), MSG_NOSIGNAL);
      sockets.push_back(fd);
      continue;
    }
    const linger reset{.l_onoff = manner == Manner::kResets, .l_linger = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    ::close(fd);
  }
  return sockets;
}

TEST_P(GlooTrouble, AStrangerAtSetUpOnlyCostsAnotherAttempt) {
  const int size = GetParam();
  for (const Manner manner : {Manner::kLeaves, Manner::kResets, Manner::kSendsGarbage}) {
    const std::shared_ptr<Store> store = make_memory_store();
    std::vector<std::thread> threads;
    std::atomic<int> second_attempts{0};
    for (int rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] {
        std::vector<int> sockets;
        PluginContext context = context_for(*store, rank, size);
        context.publish = [&](std::string_view key, std::string_view value) {
          if (key.find("/0/address/") != std::string_view::npos &&
              key.find("/1/address/") == std::string_view::npos)
            sockets = intrude(value, size - 1, manner);
          if (key.find("/1/address/") != std::string_view::npos) ++second_attempts;
          return store->set(key, value);
        };
        {
          Peer peer(std::move(context));
          peer.open(size);
          const Status status = peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag()));
          EXPECT_TRUE(status.ok()) << status.message();
        }
        for (const int fd : sockets) ::close(fd);
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(second_attempts.load(), size) << "the strangers were not noticed";
  }
}

size_t entries(const char* folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST_P(GlooTrouble, OpeningAndClosingLeavesNoDescriptorAndNoThread) {
  const auto cycle = [] {
    with_ranks(2, [](Peer& peer, int) {
      ASSERT_TRUE(peer.run(peer.communicator().barrier(peer.lane(), peer.next_tag())).ok());
    });
  };
  cycle();
  const size_t descriptors = entries("/proc/self/fd"), tasks = entries("/proc/self/task");
  for (int i = 0; i < 50; ++i) cycle();
  EXPECT_EQ(entries("/proc/self/fd"), descriptors);
  EXPECT_LE(entries("/proc/self/task"), tasks + 2);  // one that was joined is there a moment more
}

// Processes.

constexpr int kLost = 0, kOther = 1, kNoStart = 2;

/// A child: allreduces until something happens; the exit status says what.
int reduce_forever(const std::string& address, Rank rank, int size, int started) {
  auto store = connect_store(address, 20s);
  if (!store.ok()) return kNoStart;
  Peer peer(context_for(*store.value(), rank, size));
  peer.open(size);
  std::vector<float> data(4 << 20, 1.0f);
  const std::vector<Segment> segments{{reinterpret_cast<std::byte*>(data.data()), data.size()}};
  const Reduction reduction{DType::kFloat32, ReduceOp::kAverage, 1, 1};
  for (int i = 0;; ++i) {
    const Status status =
        peer.run(peer.communicator().allreduce(peer.lane(), peer.next_tag(), segments, reduction));
    if (!status.ok()) return status.code() == Code::kPeerLost ? kLost : kOther;
    if (data[0] != 1.0f) return kOther;
    if (i == 2 && ::write(started, "x", 1) != 1) return kNoStart;
  }
}

/// The child's exit status, or -1 if it does not end within `timeout`.
int wait_for_exit(pid_t pid, std::chrono::milliseconds timeout) {
  const auto handle = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  pollfd ended{handle, POLLIN, 0};
  const int ready = ::poll(&ended, 1, static_cast<int>(timeout.count()));
  ::close(handle);
  if (ready != 1) ::kill(pid, SIGKILL);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return ready == 1 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_P(GlooTrouble, SurvivorsOfAKilledProcessLearnThatAPeerIsLost) {
  const int size = GetParam();
  const std::string path = testing::TempDir() + "hora_gloo_" + std::to_string(::getpid());
  int started[2];
  ASSERT_EQ(::pipe(started), 0);
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) ::_exit(reduce_forever("unix:" + path, rank, size, started[1]));
    children.push_back(pid);
  }
  const auto server = StoreServer::start(path);
  ASSERT_TRUE(server.ok()) << server.status().message();
  for (int i = 0; i < size; ++i) {
    pollfd ready{started[0], POLLIN, 0};
    char byte = 0;
    ASSERT_EQ(::poll(&ready, 1, 60'000), 1) << "not all ranks started";
    ASSERT_EQ(::read(started[0], &byte, 1), 1);
  }
  ::kill(children.back(), SIGKILL);
  EXPECT_EQ(wait_for_exit(children.back(), 10s), -1);
  for (int rank = 0; rank + 1 < size; ++rank)
    EXPECT_EQ(wait_for_exit(children[static_cast<size_t>(rank)], 20s), kLost) << "rank " << rank;
  ::close(started[0]);
  ::close(started[1]);
}

}  // namespace
}  // namespace hora
