// Goal: ranks that measure different speeds agree on every tensor's chain, and the choice is what
// the setting, its rules and the job's links say; ranks that meet again keep it, with those that
// have joined, unless it has become much slower.
// Method: forked ranks that are told to be on different hosts, over the real start-up, each with
// speeds of its own; what they remember tells their chains.

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "hora/engine.h"
#include "tests/support/engine_job.h"
#include "tests/support/engine_work.h"

namespace hora {
namespace {

using Job = support::EngineJob;
using support::allreduce;

/// Reduces one tensor of this many elements, over all ranks or a set of `members`; what went wrong.
std::string reduce(Engine& engine, const std::string& name, size_t count,
                   const std::string& chain = {}, SetId set = 0, int members = 0) {
  std::vector<float> values(count, 1);
  Request request = allreduce(name, values);
  request.chain = chain;
  request.set = set;
  HORA_WANT_OK(engine.run(request));
  // A block of equal values is exact in every chain of the list.
  const auto sum = static_cast<float>(members > 0 ? members : engine.world().size());
  for (const float value : values) HORA_WANT(std::abs(value - sum) < 0.02f * sum, name);
  return "";
}

/// Chains by tensor; none has no entry.
std::map<std::string, std::string> chains_of(Engine& engine) {
  std::map<std::string, std::string> chains;
  const auto memories = engine.memories();
  if (!memories.ok()) return {{"error", memories.status().message()}};
  for (const Remembered& one : memories.value())
    chains[one.tensor] = one.chain.substr(0, one.chain.find(';'));
  return chains;
}

TEST(AutoCompression, RanksWithOtherSpeedsAgree) {
  Job job(2, 1);
  job.config.compression = "auto:error=0.2;rule=glob:bias*->none";
  job.config.links = "1Gbit";
  EXPECT_EQ(job.run_ranks([&](Rank rank) -> std::string {
    // By itself the first rank would take int8, and the second int4.
    job.config.codec_speeds = rank == 0 ? "int4=3/3/3,int8=0/0/0,fp8=9/9/9,bf16=9/9/9"
                                        : "int4=0/0/0,int8=99/99/9,fp8=99/99/9,bf16=99/99/9";
    auto started = job.start(rank);
    HORA_WANT(started.ok(), started.status().message());
    Engine& engine = *started.value();
    for (int step = 0; step < 2; ++step) {
      HORA_WANT_NOTHING(reduce(engine, "large", 1 << 20));
      HORA_WANT_NOTHING(reduce(engine, "bias", 1 << 20));
    }
    const auto chains = chains_of(engine);
    // 19 ns for an element in int4, of the slower rank, are less than 32 for a float at 1 Gbit/s.
    HORA_WANT(chains.contains("large"), "large travels as it is");
    HORA_WANT(chains.at("large").find("bits=4") != std::string::npos, chains.at("large"));
    HORA_WANT(!chains.contains("bias"), chains.at("bias"));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(AutoCompression, ACallMayAskForItWhereTheJobDoesNot) {
  Job job(2, 1);
  job.config.links = "10Mbit";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(reduce(engine, "a", 1 << 16, "auto"));
    HORA_WANT_NOTHING(reduce(engine, "b", 1 << 16));
    HORA_WANT_NOTHING(reduce(engine, "c", 1 << 16, "auto:error=1%"));
    const auto chains = chains_of(engine);
    HORA_WANT(chains.size() == 2, std::to_string(chains.size()));
    HORA_WANT(chains.at("a").find("bits=1") != std::string::npos, chains.at("a"));
    HORA_WANT(chains.at("c").find("bits=8") != std::string::npos, chains.at("c"));
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(AutoCompression, AProcessSetGoesByItsOwnHosts) {
  Job job(2, 2);
  job.config.compression = "auto";
  job.config.links = "10Mbit";
  EXPECT_EQ(job.run([](Engine& engine, Rank rank) -> std::string {
    const std::vector<std::vector<Rank>> sets = {{0, 1}, {0, 2}, {0, 1, 3}};
    const std::string early = reduce(engine, "x", 1 << 16, {}, 2, 2);
    HORA_WANT(early.find("not a member of process set 2") != std::string::npos, early);
    for (const std::vector<Rank>& members : sets) {
      Request add;
      add.op = Op::kAddSet;
      add.members = members;
      Outcome outcome;
      HORA_WANT_OK(engine.run(add, &outcome));
      if (!std::binary_search(members.begin(), members.end(), rank)) continue;
      HORA_WANT_NOTHING(reduce(engine, "x", 1 << 16, {}, static_cast<SetId>(outcome.value),
                               static_cast<int>(members.size())));
    }
    std::map<SetId, std::string> chains;
    const auto memories = engine.memories();
    HORA_WANT_OK(memories.status());
    for (const Remembered& one : memories.value()) chains[one.set] = one.chain;
    HORA_WANT(!chains.contains(1), "inside a host none pays, not " + chains[1]);
    for (const SetId set : {2, 3}) {
      const auto& members = sets[set - 1];
      if (std::binary_search(members.begin(), members.end(), rank))
        HORA_WANT(chains[set].find("bits=1") != std::string::npos, chains[set]);
    }
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

/// What is left of an epoch when its engine is gone.
struct Left {
  std::string choices, memory;
};

/// One epoch of `job`: exchanges "old", whose memory may come from the last one, and "new".
std::string train_an_epoch(Job& job, Rank rank, uint32_t epoch, const std::string& chain,
                           const std::string& chain_of_new, uint64_t exchanges, Left& left) {
  const auto started = job.start(rank, epoch, left.choices);
  HORA_WANT(started.ok(), started.status().message());
  Engine& engine = *started.value();
  if (!left.memory.empty()) HORA_WANT_OK(engine.load_memories(std::array{left.memory}, true));
  HORA_WANT_NOTHING(reduce(engine, "old", 1 << 20));
  HORA_WANT_NOTHING(reduce(engine, "new", (1 << 20) + 1024 * epoch));
  auto chains = chains_of(engine);
  HORA_WANT(chains["old"].find(chain) != std::string::npos, chains["old"]);
  HORA_WANT(chains["new"].find(chain_of_new) != std::string::npos, chains["new"]);
  double lost = 0;
  const auto memories = engine.memories(&lost);
  HORA_WANT_OK(memories.status());
  for (const Remembered& one : memories.value())
    if (one.tensor == "old") HORA_WANT(one.exchanges == exchanges, std::to_string(one.exchanges));
  left = {engine.automatic_choices(), engine.save_memories(0, "old").value()};
  HORA_WANT_OK(engine.shutdown());
  return "";
}

TEST(AutoCompression, RanksThatMeetAgainKeepTheirChainsUnlessTheyHaveBecomeMuchSlower) {
  Job job(3, 1);
  job.config.compression = "auto:error=0.05";
  job.config.links = "1Gbit";
  const std::string int8 = "recon=levels", fp8 = "recon=e4m3";
  EXPECT_EQ(job.run_ranks([&](Rank rank) -> std::string {
    Left left;
    const auto epoch = [&](uint32_t number, int ranks, const char* speeds,
                           const std::string& of_old, const std::string& of_new,
                           uint64_t exchanges) -> std::string {
      job.config.size = job.config.cross_size = ranks;
      job.config.codec_speeds = speeds;
      if (rank >= ranks) return "";
      return train_an_epoch(job, rank, number, of_old, of_new, exchanges, left);
    };
    HORA_WANT_NOTHING(epoch(1, 2, "int8=0.1/0.1/0.1,fp8=1/1/1", int8, int8, 1));
    // Now fp8 takes some percent less, and rank 2 has joined, which knows nothing of int8.
    HORA_WANT_NOTHING(epoch(2, 3, "int8=0.5/0.5/0.1,fp8=0.1/0.1/0.1", int8, fp8, rank < 2 ? 2 : 1));
    // Who had another choice, such as a rank that has been away, does as rank 0.
    if (rank == 1) left.choices = "0/0.05/4/1048576=bf16";
    HORA_WANT_NOTHING(epoch(3, 3, "int8=0.5/0.5/0.1,fp8=0.1/0.1/0.1", int8, fp8, rank < 2 ? 3 : 2));
    return epoch(4, 3, "int8=5/5/1,fp8=0.1/0.1/0.1", fp8, fp8, 1);
  }),
            "");
}

TEST(AutoCompression, OneHostNeedsNone) {
  Job job(2);
  job.config.compression = "auto:error=1";
  EXPECT_EQ(job.run([](Engine& engine, Rank) -> std::string {
    HORA_WANT_NOTHING(support::reduce_ok(engine, "x", 1 << 18));
    HORA_WANT(chains_of(engine).empty(), "something is compressed");
    HORA_WANT_OK(engine.shutdown());
    return "";
  }),
            "");
}

TEST(AutoCompression, WrongSpeedsAreRefusedAtStart) {
  Config config;
  config.codec_speeds = "onebat=1/2/3";
  const auto started = Engine::start_local(1, config);
  EXPECT_EQ(started.status().message(),
            "HORA_CODEC_SPEEDS: character 1: no chain of auto is 'onebat'; did you mean 'onebit'?");
}

}  // namespace
}  // namespace hora
