// Goal: ranks of several hosts are one job: they meet, reduce, and when one dies, stops or hangs up
// every survivor is told which. Method: forked processes on loopback that are told to be on
// different hosts, over the real start-up. Whoever must die does so by its own hand.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "hora/engine.h"
#include "runtime/clock.h"
#include "runtime/introduction.h"
#include "runtime/store.h"
#include "tests/support/engine_job.h"
#include "tests/support/engine_work.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Job = support::EngineJob;
using support::allreduce;
using support::reduce_ok;

std::string some_work(Engine& engine) {
  for (const size_t count : {size_t{1}, size_t{1'000}, size_t{200'000}})
    for (int turn = 0; turn < 3; ++turn)
      HORA_WANT_NOTHING(reduce_ok(engine, "t" + std::to_string(count), count));
  return "";
}

/// Works until an operation fails; the error must name `guilty` and its host, in time.
std::string work_until_lost(Engine& engine, Rank guilty) {
  const auto begun = std::chrono::steady_clock::now();
  const std::string name = "lost rank " + std::to_string(guilty) + ": ";
  const std::string host =
      "(host " + engine.world().members[static_cast<size_t>(guilty)].host + ")";
  for (int i = 0; std::chrono::steady_clock::now() - begun < seconds(20); ++i) {
    std::vector<float> values(static_cast<size_t>(i % 5) * 10'000 + 1, 1);
    const auto before = std::chrono::steady_clock::now();
    const Status status = engine.run(allreduce("x" + std::to_string(i % 7), values));
    if (status.ok()) continue;
    const auto took = std::chrono::steady_clock::now() - before;
    HORA_WANT(status.code() == Code::kPeerLost, status.message());
    HORA_WANT(status.message().starts_with(name), status.message());
    HORA_WANT(status.message().find(host) != std::string::npos, status.message());
    HORA_WANT(took < 3 * milliseconds(1'000), "it took too long to notice");
    return "";
  }
  return "nobody noticed that rank " + std::to_string(guilty) + " had gone";
}

/// Works for a while, so that the others are amidst of something.
void work(Engine& engine, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    std::vector<float> values(static_cast<size_t>(i % 5) * 10'000 + 1, 1);
    if (!engine.run(allreduce("x" + std::to_string(i % 7), values)).ok()) return;
  }
}

/// Closes this process's sending side of every connection between hosts.
void half_close_everything() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  for (int fd = 0; fd < std::min<int>(static_cast<int>(limit.rlim_cur), 1024); ++fd) {
    sockaddr_storage where{};
    socklen_t bytes = sizeof(where);
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&where), &bytes) == 0 &&
        (where.ss_family == AF_INET || where.ss_family == AF_INET6))
      ::shutdown(fd, SHUT_WR);
  }
}

TEST(Hosts, RanksOfSeveralHostsReduceAndKnowTheirPlaces) {
  for (const auto& [hosts, each] : {std::pair{2, 2}, {3, 1}, {2, 1}}) {
    const Job job(hosts, each);
    EXPECT_EQ(job.run([&](Engine& engine, Rank rank) -> std::string {
      const World& world = engine.world();
      HORA_WANT(world.cross_size == hosts, std::to_string(world.cross_size));
      HORA_WANT(world.cross_rank == rank / each, std::to_string(world.cross_rank));
      HORA_WANT(world.local_size == each, std::to_string(world.local_size));
      HORA_WANT(world.local_rank == rank % each, std::to_string(world.local_rank));
      HORA_WANT_NOTHING(some_work(engine));
      HORA_WANT_OK(engine.shutdown());
      return "";
    }),
              "");
  }
}

/// The mean of what ranks give in step `step`.
std::string exchange(Engine& engine, const std::string& name, int step,
                     std::vector<float>& values) {
  const auto rank = static_cast<size_t>(engine.world().rank);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((i * 7 + rank * 13 + static_cast<size_t>(step)) % 29) - 14;
  Request request = allreduce(name, values);
  request.reduce = ReduceOp::kAverage;
  HORA_WANT_OK(engine.run(request));
  std::vector<float> least = values, most = values;
  for (const auto& [copy, op] : {std::pair{&least, ReduceOp::kMin}, {&most, ReduceOp::kMax}}) {
    Request compared = allreduce(op == ReduceOp::kMin ? "least" : "most", *copy);
    compared.reduce = op;
    compared.chain = "none";
    HORA_WANT_OK(engine.run(compared));
  }
  HORA_WANT(least == values && most == values, "ranks differ in step " + std::to_string(step));
  return "";
}

TEST(Hosts, CompressionBetweenHostsOnlyGivesOneMeanAndGoesOnToTheBit) {
  Job job(2, 2);
  job.config.compression = "onebit;link=inter";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    std::vector<float> values(200'000), again(values.size());
    for (int step = 0; step < 3; ++step) HORA_WANT_NOTHING(exchange(engine, "w", step, values));
    const Counters counters = engine.counters();
    HORA_WANT(counters.compressed_bytes > 25 * counters.compressed_wire_bytes,
              std::to_string(counters.compressed_wire_bytes));
    HORA_WANT(counters.compressed_bytes < 3 * 4 * values.size(), "a shard of it crosses, not all");
    const auto saved = engine.save_memories();
    HORA_WANT(saved.ok() && saved.value().size() > 2 * values.size(), "half the residuals");
    HORA_WANT_NOTHING(exchange(engine, "w", 3, values));
    const std::string parts[] = {saved.value()};
    HORA_WANT_OK(engine.load_memories(parts));
    HORA_WANT_NOTHING(exchange(engine, "w", 3, again));
    HORA_WANT(values == again, "what was loaded goes on differently");
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, WhereCompressionBetweenHostsHasNothingToDoValuesTravelAsTheyAre) {
  Job job(1, 2);
  job.config.compression = "onebit;link=inter";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT(engine.counters().compressed_bytes == 0, "it was compressed");
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, CompressionBetweenHostsNeedsSumsInsideThem) {
  Job job(2, 2);
  job.config.hierarchical = 0;
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    std::vector<float> values(1'000, 1);
    Request request = allreduce("w", values);
    request.chain = "onebit;link=inter";
    const Status status = engine.run(request);
    HORA_WANT(status.code() == Code::kInvalidArgument, status.message());
    HORA_WANT(status.message().find("HORA_HIERARCHICAL=0") != std::string::npos, status.message());
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, GlooReachesOtherHostsWhereTheyHaveReachedThisOne) {
  Job job(2, 2);
  job.config.backend = "gloo";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, TcpServesTheRanksOfOneHostToo) {
  Job job(1, 3);
  job.config.backend = "tcp";
  job.config.address = "";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, ATreeOfHostsIsAsGood) {
  Job job(5, 1);
  job.config.tree_arity = 2;
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, MeetAtAStoreOverTcpWithTheJobsSecret) {
  Job job(2, 2);
  job.store_over_tcp = true;
  job.config.secret = Job::kSecret;
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

/// Rank 0 serves the store until the others have seen their errors, too.
std::string await_seen(const Job& job, Rank rank, const std::vector<Rank>& others) {
  const auto store = connect_store(job.store(), seconds(20));
  HORA_WANT_OK(store.status());
  if (rank != 0) (void)store.value()->set(fmt::format("seen {}", rank), "");  // may come too late
  for (const Rank other : rank == 0 ? others : std::vector<Rank>())
    HORA_WANT_OK(store.value()->get(fmt::format("seen {}", other), seconds(20)).status());
  return "";
}

// It introduces itself, so that all know of it, and then it is not heard of again.
TEST(Hosts, ARankThatGetsStuckWhileAllMeetIsNamedByEverybody) {
  for (const Rank stuck : {1, 2, 3}) {
    Job job(2, 2);
    job.config.start_timeout = 2;
    std::vector<Rank> others = {1, 2, 3};
    std::erase(others, stuck);
    EXPECT_EQ(job.run_ranks([&](Rank rank) -> std::string {
      if (rank == stuck) {
        Config config = job.config;
        config.rank = rank;
        config.cross_rank = rank / 2;
        const auto store = connect_store(job.store(), seconds(20));
        HORA_WANT_OK(store.status());
        const auto met = introduce(*store.value(), config, "epoch1/member/", SystemClock(), {});
        return met.status().message();
      }
      const std::string error = job.start(rank).status().message();
      HORA_WANT(error.find(fmt::format("rank {} ", stuck)) != std::string::npos, error);
      return await_seen(job, rank, others);
    }),
              "")
        << stuck;
  }
}

TEST(Hosts, EncryptTheirStoreAndControlAndData) {
  Job job(2, 2);
  job.store_over_tcp = true;
  job.config.secret = Job::kSecret;
  job.config.tls = 1;
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(some_work(engine));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Hosts, GlooIsRefusedWhereConnectionsMustBeEncrypted) {
  Job job(2, 1);
  job.config.tls = 1;
  job.config.secret = Job::kSecret;
  job.config.backend = "gloo";
  EXPECT_EQ(job.run_started([](Job::Started engine, Rank) -> std::string {
    HORA_WANT(!engine.ok(), "it started");
    HORA_WANT(engine.status().message().starts_with("HORA_TLS=1: Gloo's connections are not"),
              engine.status().message());
    return "";
  }),
            "");
}

TEST(Hosts, AStoreOverTcpWithoutTheSecretIsAnErrorThatSaysSo) {
  Job job(2, 1);
  job.store_over_tcp = true;
  for (const std::string& secret : {std::string(), std::string(64, 'a')}) {
    job.config.secret = secret;
    EXPECT_EQ(job.run_started([&](Job::Started engine, Rank rank) -> std::string {
      HORA_WANT(!engine.ok(), "it started");
      HORA_WANT(engine.status().message().find("HORA_SECRET") != std::string::npos,
                engine.status().message());
      return await_seen(job, rank, {1});
    }),
              "");
  }
}

TEST(Hosts, SharedMemoryDoesNotReachOtherHosts) {
  Job job(2, 1);
  job.config.backend = "shm";
  EXPECT_EQ(job.run_started([](Job::Started engine, Rank) -> std::string {
    HORA_WANT(engine.status().code() == Code::kUnavailable, engine.status().message());
    return "";
  }),
            "");
}

TEST(Hosts, EverySurvivorOfAKillIsToldWhoDiedAndWhere) {
  for (const Rank guilty : {0, 1, 2, 3}) {  // the root, a rank of its host, a leader, its rank
    const Job job(2, 2);
    EXPECT_EQ(job.run([&](Engine& engine, Rank rank) -> std::string {
      if (rank != guilty) return work_until_lost(engine, guilty);
      work(engine, 20);
      ::raise(SIGKILL);
      return "";
    }),
              "rank " + std::to_string(guilty) + ": died of signal 9\n")
        << guilty;
  }
}

TEST(Hosts, AStoppedRankIsFoundByItsSilence) {
  for (const Rank guilty : {0, 2, 3}) {
    const Job job(2, 2);
    EXPECT_EQ(job.run([&](Engine& engine, Rank rank) -> std::string {
      if (rank != guilty) return work_until_lost(engine, guilty);
      work(engine, 10);
      const pid_t me = ::getpid();
      if (const pid_t waker = ::fork(); waker == 0) {  // lets its parent go on much later
        ::kill(me, SIGSTOP);
        ::sleep(4);
        ::kill(me, SIGCONT);
        ::_exit(0);
      } else {
        int status = 0;
        ::waitpid(waker, &status, 0);
      }
      std::vector<float> values(1, 1);
      const Status after = engine.run(allreduce("x0", values));
      HORA_WANT(after.code() == Code::kPeerLost, after.message());
      return "";
    }),
              "")
        << guilty;
  }
}

TEST(Hosts, AHalfClosedRankIsNamedByAllOthers) {
  const Job job(3, 1);
  EXPECT_EQ(job.run([&](Engine& engine, Rank rank) -> std::string {
    if (rank != 1) return work_until_lost(engine, 1);
    work(engine, 10);
    half_close_everything();
    std::vector<float> values(1, 1);
    Status after;
    for (int i = 0; i < 1'000 && after.ok(); ++i) after = engine.run(allreduce("x0", values));
    HORA_WANT(after.code() == Code::kPeerLost, after.message());
    return "";
  }),
            "");
}

TEST(Hosts, AnIdleJobNoticesADeath) {
  const Job job(2, 1);
  EXPECT_EQ(job.run([&](Engine& engine, Rank rank) -> std::string {
    HORA_WANT_NOTHING(reduce_ok(engine, "first", 100));
    if (rank == 1) {
      ::usleep(200'000);  // the other knows the result, and sleeps
      ::raise(SIGKILL);
    }
    const auto begun = std::chrono::steady_clock::now();
    while (engine.health().ok() && std::chrono::steady_clock::now() - begun < seconds(3))
      ::usleep(10'000);
    HORA_WANT(engine.health().message().starts_with("lost rank 1: "), engine.health().message());
    return "";
  }),
            "rank 1: died of signal 9\n");
}

TEST(Hosts, AnIdleJobLivesMuchLongerThanTheFailureTimeout) {
  const Job job(2, 2);
  EXPECT_EQ(job.run([&](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(reduce_ok(engine, "first", 100));
    ::sleep(3);
    HORA_WANT_NOTHING(reduce_ok(engine, "second", 100));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

}  // namespace
}  // namespace hora
