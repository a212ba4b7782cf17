// Goal: ranks that measure different speeds agree on every tensor's chain, and the choice is what
// the setting, its rules and the job's links say.
// Method: forked ranks that are told to be on different hosts, over the real start-up, each with
// speeds of its own; what they remember tells their chains.

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

/// Reduces one tensor of this many elements; what went wrong.
std::string reduce(Engine& engine, const std::string& name, size_t count,
                   const std::string& chain = {}) {
  std::vector<float> values(count, 1);
  Request request = allreduce(name, values);
  request.chain = chain;
  HORA_WANT_OK(engine.run(request));
  // A block of equal values is exact in every chain of the list.
  const auto sum = static_cast<float>(engine.world().size());
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
