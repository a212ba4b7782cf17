// Goal: what only real processes show: meeting, death, silence, fork, leaks, random programs over
// shared memory and Gloo. Method: forked ranks over the real start-up; rank 0 hosts the store.
// Whoever must die dies by its own hand (raise), so that no test ever signals a process it does not
// own.
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "hora/engine.h"
#include "tests/support/engine_job.h"
#include "tests/support/engine_work.h"

namespace hora {
namespace {

using std::chrono::seconds;
using support::allreduce;
using support::reduce_ok;
using support::run_processes;

/// Small buckets, so that operations have several.
struct Job : support::EngineJob {
  explicit Job(int ranks) : EngineJob(ranks) { config.bucket_bytes = 64 << 10; }
};

/// Works until an operation fails, and checks that the error names `guilty`.
std::string work_until_lost(Engine& engine, int guilty) {
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; std::chrono::steady_clock::now() - begun < seconds(20); ++i) {
    std::vector<float> values(static_cast<size_t>(i % 5) * 40'000 + 1, 1);
    const Status status = engine.run(allreduce("x" + std::to_string(i % 7), values));
    if (status.ok()) continue;
    HORA_WANT(status.code() == Code::kPeerLost, status.message());
    HORA_WANT(status.message().find("rank " + std::to_string(guilty)) != std::string::npos,
              status.message());
    HORA_WANT(!engine.health().ok(), "the epoch should be over");
    return "";
  }
  return "nobody noticed that rank " + std::to_string(guilty) + " had gone";
}

size_t count_entries(const char* folder) {
  size_t count = 0;
  if (DIR* open = ::opendir(folder)) {
    while (::readdir(open)) ++count;
    ::closedir(open);
  }
  return count;
}

size_t resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::stoul(line.substr(6));
  return 0;
}

TEST(Processes, ReduceOverSharedMemoryAndGloo) {
  for (const std::string backend : {"shm", "gloo"}) {
    Job job(3);
    job.config.backend = backend;
    EXPECT_EQ(job.run([](Engine& engine, int) -> std::string {
      for (const size_t count : {size_t{1}, size_t{1000}, size_t{200'000}})
        HORA_WANT_NOTHING(reduce_ok(engine, "t" + std::to_string(count), count));
      HORA_WANT_OK(engine.shutdown());
      return "";
    }),
              "")
        << backend;
  }
}

TEST(Processes, EightRanksOnFewCoresGetThrough) {
  Job job(8);
  job.config.failure_timeout = 10;
  EXPECT_EQ(job.run([](Engine& engine, int) -> std::string {
    for (int i = 0; i < 50; ++i)
      HORA_WANT_NOTHING(reduce_ok(engine, "t" + std::to_string(i % 3), 5000));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Processes, TheArenaIsPrivateAfterCompletion) {
  Job job(2);
  EXPECT_EQ(job.run([](Engine& engine, int rank) -> std::string {
    constexpr size_t kCount = 300'000;
    auto memory = engine.allocate(kCount * sizeof(float));
    HORA_WANT(memory.ok(), memory.status().message());
    auto* values = reinterpret_cast<float*>(memory.value().data());
    for (int step = 0; step < 5; ++step) {
      std::fill_n(values, kCount, static_cast<float>(rank + 1));
      Request request;
      request.name = "g";
      request.reduce = ReduceOp::kSum;
      request.inputs = {{values, {kCount}, DType::kFloat32, {}}};
      request.outputs = request.inputs;
      HORA_WANT_OK(engine.run(request));
      const float factor = rank == 0 ? 2.0f : 5.0f;  // clipping or unscaling in place
      for (size_t i = 0; i < kCount; ++i) values[i] *= factor;
      Request barrier;
      barrier.op = Op::kBarrier;
      HORA_WANT_OK(engine.run(barrier));
      for (size_t i = 0; i < kCount; ++i)
        HORA_WANT(values[i] == 3 * factor, std::to_string(values[i]));
    }
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Processes, SurvivorsOfAKillAreToldWhoDied) {
  for (const int victim : {0, 1, 2}) {
    Job job(3);
    std::string told = job.run([&](Engine& engine, int rank) -> std::string {
      if (rank != victim) return work_until_lost(engine, victim);
      const int last = 20 + victim * 7;
      for (int i = 0; i <= last; ++i) {
        std::vector<float> values(static_cast<size_t>(i % 5) * 40'000 + 1, 1);
        const Request request = allreduce("x" + std::to_string(i % 7), values);
        if (i < last && engine.run(request).ok()) continue;
        (void)engine.submit(request);
        ::raise(SIGKILL);
      }
      return "unreachable";
    });
    // Only the victim's own end is to be reported.
    EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 1) << told;
    EXPECT_NE(told.find("rank " + std::to_string(victim)), std::string::npos) << told;
    EXPECT_EQ(told.find("nobody noticed"), std::string::npos) << told;
  }
}

TEST(Processes, AStoppedRankIsFoundByItsSilence) {
  Job job(3);
  const std::string told = job.run([&](Engine& engine, int rank) -> std::string {
    if (rank != 1) return work_until_lost(engine, 1);
    for (int i = 0; i < 10; ++i) {
      std::vector<float> values(static_cast<size_t>(i % 5) * 40'000 + 1, 1);
      if (!engine.run(allreduce("x" + std::to_string(i % 7), values)).ok()) break;
    }
    const pid_t me = ::getpid();
    if (const pid_t waker = ::fork();
        waker == 0) {  // stops its parent, and lets it go on much later
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
  });
  EXPECT_EQ(told, "");
}

TEST(Processes, ARankThatExitsEarlyIsNamed) {
  Job job(3);
  EXPECT_EQ(job.run([](Engine& engine, int rank) -> std::string {
    HORA_WANT_NOTHING(reduce_ok(engine, "first", 100));
    if (rank == 2) {
      HORA_WANT_OK(engine.shutdown());
      return "";
    }
    std::vector<float> values(100, 1);
    const Status status = engine.run(allreduce("second", values));
    HORA_WANT(status.code() == Code::kPeerLeft, status.message());
    HORA_WANT(status.message().find("rank 2") != std::string::npos, status.message());
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Processes, AForkedChildIsToldThatItIsForeignAndTheParentGoesOn) {
  Job job(2);
  EXPECT_EQ(job.run([](Engine& engine, int) -> std::string {
    HORA_WANT_NOTHING(reduce_ok(engine, "before", 1000));
    const pid_t child = ::fork();
    if (child == 0) {
      std::vector<float> values(1, 1);
      const Status status = engine.run(allreduce("in_child", values));
      const bool good = status.code() == Code::kInvalidArgument &&
                        status.message().find("fork") != std::string::npos;
      ::_exit(good ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    HORA_WANT(WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "the child got no error that names fork");
    HORA_WANT_NOTHING(reduce_ok(engine, "after", 1000));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(Processes, GrandchildrenDoNotHideADeath) {
  Job job(2);
  const std::string told = job.run([](Engine& engine, int rank) -> std::string {
    HORA_WANT_NOTHING(reduce_ok(engine, "before", 1000));
    if (rank == 0) return work_until_lost(engine, 1);
    for (int i = 0; i < 2; ++i) {  // what a DataLoader leaves behind
      if (::fork() != 0) continue;
      ::prctl(PR_SET_PDEATHSIG, 0);
      ::sleep(3);
      ::_exit(0);
    }
    ::raise(SIGKILL);
    return "unreachable";
  });
  EXPECT_EQ(told.find("nobody noticed"), std::string::npos) << told;
  EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 1) << told;
}

TEST(Processes, AMissingRankIsNamedWhenTheStartTimesOut) {
  Job job(2);
  job.config.start_timeout = 1;
  const std::string told = run_processes(2, [&](Rank rank) -> std::string {
    if (rank == 1) return "";
    auto server = job.serve();
    HORA_WANT(server.ok(), server.status().message());
    const auto engine = job.start(0);
    HORA_WANT(!engine.ok() && engine.status().code() == Code::kTimeout, "it should have timed out");
    HORA_WANT(engine.status().message().find("1") != std::string::npos, engine.status().message());
    return "";
  });
  EXPECT_EQ(told, "");
}

TEST(Processes, ASettingThatDiffersIsNamed) {
  Job job(2);
  const std::string told = run_processes(2, [&](Rank rank) -> std::string {
    std::unique_ptr<StoreServer> server;
    if (rank == 0) server = std::move(job.serve()).value();
    Config mine = job.config;
    mine.rank = rank;
    mine.store = job.store();
    mine.failure_timeout = rank == 0 ? 1 : 3;
    const auto engine = Engine::start(mine);
    HORA_WANT(!engine.ok() && engine.status().code() == Code::kMismatch, engine.status().message());
    HORA_WANT(engine.status().message().find("HORA_FAILURE_TIMEOUT") != std::string::npos,
              engine.status().message());
    ::usleep(200'000);  // the store must outlive the other's question
    return "";
  });
  EXPECT_EQ(told, "");
}

TEST(Processes, ManyStartsLeakNothing) {
  Job job(2);
  const std::string told = run_processes(
      2,
      [&](Rank rank) -> std::string {
        std::unique_ptr<StoreServer> server;
        if (rank == 0) server = std::move(job.serve()).value();
        size_t descriptors = 0, threads = 0, memory = 0;
        for (uint32_t epoch = 1; epoch <= 200; ++epoch) {
          auto engine = job.start(rank, epoch);
          HORA_WANT(engine.ok(), engine.status().message());
          HORA_WANT_NOTHING(reduce_ok(*engine.value(), "t", 10'000));
          HORA_WANT_OK(engine.value()->shutdown());
          engine.value().reset();
          if (epoch == 20) {
            descriptors = count_entries("/proc/self/fd");
            threads = count_entries("/proc/self/task");
            memory = resident_kib();
          }
        }
        // A thread that was joined is in the list for a moment more.
        HORA_WANT(count_entries("/proc/self/task") <= threads + 2, "threads leak");
        HORA_WANT(count_entries("/proc/self/fd") <= descriptors + 2, "descriptors leak");
        HORA_WANT(resident_kib() <= memory + 4096,
                  std::to_string(memory) + " KiB grew to " + std::to_string(resident_kib()));
        return "";
      },
      seconds(120));
  EXPECT_EQ(told, "");
}

/// One operation of a random program, the same on all its members but for the order and `odd`.
struct Planned {
  std::string name;
  SetId set = 0;
  std::vector<Rank> members;
  std::vector<size_t> counts;  ///< several make a group
  int odd = -1;                ///< the rank that gets a shape wrong, or -1
};

class RandomProgram {
 public:
  RandomProgram(Engine& engine, uint64_t seed)
      : engine_(engine),
        rank_(engine.world().rank),
        size_(engine.world().size()),
        shared_(seed),
        own_(seed * 977 + static_cast<uint64_t>(rank_)) {}

  std::string run() {
    HORA_WANT_NOTHING(add_sets());
    for (int phase = 0; phase < 12; ++phase) HORA_WANT_NOTHING(run_phase());
    return join_unevenly();
  }

 private:
  std::string add_sets() {
    std::vector<Rank> all(static_cast<size_t>(size_));
    std::iota(all.begin(), all.end(), 0);
    sets_ = {{0, all}};
    for (int i = 0; i < 3; ++i) {
      std::vector<Rank> some;
      for (const Rank rank : all)
        if (shared_() % 2) some.push_back(rank);
      if (some.empty()) continue;
      Request request;
      request.op = Op::kAddSet;
      request.members = some;
      Outcome outcome;
      HORA_WANT_OK(engine_.run(request, &outcome));
      sets_.emplace_back(static_cast<SetId>(outcome.value), some);
    }
    return "";
  }

  std::vector<Planned> plan() {
    std::vector<Planned> plans;
    for (int i = 0; i < 40; ++i) {
      if (shared_() % 3 == 0) continue;  // a subset of the names
      const auto& [set, members] = sets_[shared_() % sets_.size()];
      Planned& next = plans.emplace_back();
      next.name = "n" + std::to_string(i);
      next.set = set;
      next.members = members;
      next.counts.resize(shared_() % 4 ? 1 : 1 + shared_() % 4);
      for (size_t& count : next.counts)
        count = shared_() % 3 ? shared_() % 300 : shared_() % 30'000;
      const int odd = members[shared_() % members.size()];
      if (members.size() > 1 && shared_() % 11 == 0) next.odd = odd;
    }
    return plans;
  }

  std::string run_phase() {
    const std::vector<Planned> plans = plan();
    std::vector<size_t> order;
    for (size_t i = 0; i < plans.size(); ++i) {
      const auto& members = plans[i].members;
      if (std::find(members.begin(), members.end(), rank_) != members.end()) order.push_back(i);
    }
    std::shuffle(order.begin(), order.end(), own_);
    std::map<size_t, std::vector<std::vector<float>>> values;
    std::map<size_t, Handle> open;
    const auto finish = [&](size_t i) -> std::string {
      const Status status = engine_.wait(open.at(i));
      open.erase(i);
      return check(plans[i], status, values[i]);
    };
    for (const size_t i : order) {
      Request request;
      request.name = plans[i].name;
      request.set = plans[i].set;
      request.reduce = ReduceOp::kSum;
      for (size_t part = 0; part < plans[i].counts.size(); ++part) {
        const size_t wrong = part == 0 && plans[i].odd == rank_ ? 1 : 0;
        values[i].emplace_back(plans[i].counts[part] + wrong, static_cast<float>(rank_ + 1));
      }
      for (auto& each : values[i])
        request.inputs.push_back(
            {each.data(), {static_cast<int64_t>(each.size())}, DType::kFloat32, {}});
      request.outputs = request.inputs;
      auto handle = engine_.submit(request);
      HORA_WANT(handle.ok(), handle.status().message());
      open[i] = handle.value();
      // Asking early is fine; waiting here for what a peer submits later could go in a circle.
      if (own_() % 8 == 0 && engine_.poll(open.begin()->second))
        HORA_WANT_NOTHING(finish(open.begin()->first));
    }
    std::shuffle(order.begin(), order.end(), own_);
    for (const size_t i : order)
      if (open.contains(i)) HORA_WANT_NOTHING(finish(i));
    return "";
  }

  std::string check(const Planned& plan, const Status& status,
                    const std::vector<std::vector<float>>& values) const {
    if (plan.odd >= 0) {
      HORA_WANT(status.code() == Code::kMismatch, status.message());
      HORA_WANT(status.message().find(std::to_string(plan.odd)) != std::string::npos,
                status.message());
      return "";
    }
    HORA_WANT_OK(status);
    float sum = 0;
    for (const Rank member : plan.members) sum += static_cast<float>(member + 1);
    for (const auto& each : values)
      for (const float value : each) HORA_WANT(value == sum, plan.name);
    return "";
  }

  /// Rank r has r more batches than rank 0; who has none left joins.
  std::string join_unevenly() {
    for (int batch = 0; batch <= rank_; ++batch) {
      std::vector<float> values(2000, 1);
      HORA_WANT_OK(engine_.run(allreduce("batch", values)));
      for (const float value : values)
        HORA_WANT(value == static_cast<float>(size_ - batch), std::to_string(value));
    }
    Request join;
    join.op = Op::kJoin;
    Outcome outcome;
    HORA_WANT_OK(engine_.run(join, &outcome));
    HORA_WANT(outcome.value == size_ - 1, std::to_string(outcome.value));
    return reduce_ok(engine_, "after join", 10);
  }

  Engine& engine_;
  const int rank_, size_;
  std::mt19937_64 shared_, own_;
  std::vector<std::pair<SetId, std::vector<Rank>>> sets_;
};

TEST(Processes, RandomProgramsEndAsTheyShould) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    Job job(2 + static_cast<int>(seed % 4));
    job.config.failure_timeout = 10;
    if (seed % 5 == 0) job.config.backend = "gloo";
    EXPECT_EQ(job.run([&](Engine& engine, int) -> std::string {
      HORA_WANT_NOTHING(RandomProgram(engine, seed).run());
      HORA_WANT_OK(engine.shutdown());
      return "";
    }),
              "")
        << "seed " << seed;
  }
}

}  // namespace
}  // namespace hora
