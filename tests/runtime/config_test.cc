// Goal: settings mean the same whoever sets them, and a mistake is told with its cure.
// Method: Config::parse() on made-up environments; laws over the whole table.
#include "hora/config.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace hora {
namespace {

using Environment = std::vector<std::string>;

Config good(const Environment& environment) {
  const Result<Config> config = Config::parse(environment);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? config.value() : Config();
}

std::string mistake(const Environment& environment) {
  const Result<Config> config = Config::parse(environment);
  EXPECT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), Code::kInvalidArgument);
  return config.status().message();
}

TEST(Config, EveryDefaultReadFromTheEnvironmentIsTheDefault) {
  const Config standard;
  for (const Setting& setting : settings()) {
    const Config config = good({std::string(setting.name) + "=" + setting.standard});
    EXPECT_EQ(value_of(config, setting), value_of(standard, setting)) << setting.name;
  }
}

TEST(Config, EveryValuePrintedIsReadBack) {
  const Config standard;
  for (const Setting& setting : settings())
    EXPECT_EQ(value_of(standard, setting), setting.standard) << setting.name;
}

TEST(Config, EverySettingButTextRefusesNonsenseAndSaysWhatIsExpected) {
  for (const Setting& setting : settings()) {
    if (std::string_view(setting.type) == "text" || std::string_view(setting.type) == "secret")
      continue;
    const std::string text = mistake({std::string(setting.name) + "=abc!"});
    EXPECT_TRUE(text.starts_with(std::string(setting.name) + "=abc!: expected ")) << text;
    EXPECT_NE(text.find(setting.range), text.npos) << text;
  }
}

TEST(Config, ASecretIsNeverShown) {
  const std::string secret(64, 'a');
  const Config config = good({"HORA_SECRET=" + secret});
  EXPECT_EQ(config.secret, secret);
  for (const Setting& setting : settings())
    EXPECT_EQ(value_of(config, setting).find(secret), std::string::npos) << setting.name;
  EXPECT_EQ(digest_text(config).find("SECRET"), std::string::npos);
  EXPECT_EQ(mistake({"HORA_SECRET=" + secret.substr(1)}),
            "HORA_SECRET=(hidden): expected 64 hexadecimal digits");
  EXPECT_EQ(mistake({"HORA_SECRET=" + secret.substr(1) + "g"}),
            "HORA_SECRET=(hidden): expected 64 hexadecimal digits");
}

TEST(Config, RefusesNumbersBeyondTheRange) {
  EXPECT_EQ(mistake({"HORA_LANES=abc"}), "HORA_LANES=abc: expected an integer from 1 to 16");
  EXPECT_EQ(mistake({"HORA_LANES=0"}), "HORA_LANES=0: expected an integer from 1 to 16");
  EXPECT_EQ(mistake({"HORA_LANES=17"}), "HORA_LANES=17: expected an integer from 1 to 16");
  EXPECT_EQ(good({"HORA_LANES=16"}).lanes, 16);
}

TEST(Config, NamesTheSettingThatAMisspelledOneMeant) {
  EXPECT_EQ(mistake({"HORA_BUKET_BYTES=1"}),
            "HORA_BUKET_BYTES: no such setting; did you mean HORA_BUCKET_BYTES?");
}

TEST(Config, LinksAreMeasuredOrGiven) {
  EXPECT_EQ(Config().links, "measure");
  EXPECT_EQ(good({"HORA_LINKS=1Gbit,20ms"}).links, "1Gbit,20ms");
  EXPECT_EQ(mistake({"HORA_LINKS=mesure"}),
            "HORA_LINKS=mesure: expected measure, none, or a rate and one-way delay, such as "
            "1Gbit,20ms; did you mean measure?");
  EXPECT_EQ(mistake({"HORA_LINKS=1GB"}),
            "HORA_LINKS=1GB: expected measure, none, or a rate and one-way delay, such as "
            "1Gbit,20ms");
}

TEST(Config, TellsAllMistakesAtOnce) {
  const std::string text = mistake({"HORA_LANES=x", "HORA_SPIN=y"});
  EXPECT_NE(text.find("HORA_LANES=x"), text.npos);
  EXPECT_NE(text.find("HORA_SPIN=y"), text.npos);
}

TEST(Config, ReadsSizesAndTimes) {
  const Config config = good({"HORA_BUCKET_BYTES=64M", "HORA_FAILURE_TIMEOUT=500ms", "HORA_SPIN=0",
                              "HORA_SEED=18446744073709551615"});
  EXPECT_EQ(config.bucket_bytes, uint64_t{64} << 20);
  EXPECT_EQ(config.failure_timeout, 0.5);
  EXPECT_EQ(config.spin, 0);
  EXPECT_EQ(config.seed, UINT64_MAX);
}

TEST(Config, AnEmptyVariableIsNotSet) {
  EXPECT_EQ(good({"HORA_LANES="}).lanes, Config().lanes);
}

TEST(Config, HorovodsNamesAreUnderstoodAndOursWin) {
  EXPECT_EQ(good({"HOROVOD_FUSION_THRESHOLD=1048576"}).bucket_bytes, 1048576u);
  EXPECT_EQ(good({"HOROVOD_FUSION_THRESHOLD=1048576", "HORA_BUCKET_BYTES=2M"}).bucket_bytes,
            2097152u);
  EXPECT_EQ(good({"HOROVOD_FUSION_THRESHOLD=0"}).bucket_bytes, 4096u);
  EXPECT_EQ(good({"HOROVOD_GLOO_TIMEOUT_SECONDS=30"}).failure_timeout, 30);
  EXPECT_EQ(good({"HOROVOD_CPU_OPERATIONS=GLOO"}).backend, "gloo");
  EXPECT_EQ(good({"HOROVOD_LOG_LEVEL=FATAL"}).log_level, "error");
  EXPECT_EQ(good({"HOROVOD_STALL_CHECK_DISABLE=1"}).stall_warning, 0);
  EXPECT_EQ(good({"HOROVOD_STALL_CHECK_DISABLE=1", "HORA_STALL_WARNING=5"}).stall_warning, 5);
  EXPECT_EQ(good({"HOROVOD_STALL_CHECK_DISABLE=0"}).stall_warning, 60);
  EXPECT_EQ(good({"HOROVOD_CYCLE_TIME=banana"}).lanes, Config().lanes);
  EXPECT_NE(mistake({"HOROVOD_CPU_OPERATIONS=CCL"}).find("auto, shm, tcp, gloo"),
            std::string::npos);
}

TEST(Config, RankAndSizeComeFromOneSource) {
  const Environment torchrun = {"RANK=3", "WORLD_SIZE=4", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2",
                                "HORA_STORE=unix:/s"};
  const Config config = good(torchrun);
  EXPECT_EQ(config.rank, 3);
  EXPECT_EQ(config.size, 4);
  EXPECT_EQ(config.local_rank, 1);
  EXPECT_EQ(config.local_size, 2);
  EXPECT_EQ(config.cross_rank, 1);
  EXPECT_EQ(config.cross_size, 2);

  Environment both = torchrun;
  both.insert(both.end(), {"HORA_RANK=0", "HORA_SIZE=2"});
  EXPECT_EQ(good(both).rank, 0);
  EXPECT_EQ(good(both).size, 2);
  EXPECT_EQ(good(both).local_size, 2);
  both.insert(both.end(), {"HOROVOD_RANK=6", "HOROVOD_SIZE=7"});
  EXPECT_EQ(good(both).size, 2);
}

TEST(Config, ManyRanksNeedAStoreAndTheErrorNamesTheLauncher) {
  const std::string text = mistake({"RANK=0", "WORLD_SIZE=4"});
  EXPECT_NE(text.find("WORLD_SIZE=4"), text.npos) << text;
  EXPECT_NE(text.find("horarun -np 4"), text.npos) << text;
  EXPECT_EQ(good({"RANK=0", "WORLD_SIZE=1"}).size, 1);
}

TEST(Config, RanksOfOtherLaunchersFindEachOtherByWhatNamesTheirJob) {
  const std::vector<std::pair<Environment, Environment>> launchers = {
      {{"WORLD_SIZE=2", "MASTER_PORT=29500"}, {"RANK=0"}},
      {{"OMPI_COMM_WORLD_SIZE=2", "PMIX_NAMESPACE=12@1"}, {"OMPI_COMM_WORLD_RANK=0"}},
      {{"OMPI_COMM_WORLD_SIZE=2", "OMPI_MCA_ess_base_jobid=77"}, {"OMPI_COMM_WORLD_RANK=0"}},
      {{"PMI_SIZE=2", "I_MPI_HYDRA_UUID=15180000-087d"}, {"PMI_RANK=0"}},
      {{"SLURM_STEP_NUM_TASKS=2", "SLURM_JOB_ID=9", "SLURM_STEP_ID=0"}, {"SLURM_PROCID=0"}}};
  std::vector<std::string> stores;
  for (const auto& [job, who] : launchers) {
    Environment first = job, second = job, other = job;
    first.push_back(who[0]);
    second.push_back(who[0].substr(0, who[0].size() - 1) + "1");
    other.push_back(who[0]);
    other[1] += "3";  // another job of the same launcher
    const Config zero = good(first), one = good(second);
    EXPECT_EQ(zero.rank, 0);
    EXPECT_EQ(one.rank, 1);
    EXPECT_EQ(one.size, 2);
    EXPECT_TRUE(zero.serves_store);
    EXPECT_TRUE(zero.store.starts_with("unix:@hora-")) << zero.store;
    EXPECT_EQ(zero.store, one.store);
    EXPECT_EQ(digest_text(zero), digest_text(one));
    EXPECT_NE(good(other).store, zero.store);
    EXPECT_EQ(std::count(stores.begin(), stores.end(), zero.store), 0);
    stores.push_back(zero.store);
  }
}

TEST(Config, ALaunchersStoreIsUsedWhereThereIsOne) {
  const Config config = good({"RANK=1", "WORLD_SIZE=2", "MASTER_PORT=29500", "HORA_STORE=unix:/s"});
  EXPECT_EQ(config.store, "unix:/s");
  EXPECT_FALSE(config.serves_store);
}

TEST(Config, ABatchScriptOfSlurmIsAlone) {
  EXPECT_EQ(good({"SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_JOB_ID=9"}).size, 1);
}

const std::string kSecret = "HORA_SECRET=" + std::string(64, '7');

Environment torchrun_on_two_hosts() {
  return {
      "RANK=3",           "WORLD_SIZE=4", "LOCAL_RANK=1", "MASTER_PORT=29500", "LOCAL_WORLD_SIZE=2",
      "MASTER_ADDR=node1"};
}

TEST(Config, RanksOfSeveralHostsMeetAtATcpStoreOfRankZero) {
  Environment torchrun = torchrun_on_two_hosts();
  torchrun.push_back(kSecret);
  EXPECT_TRUE(good(torchrun).serves_store);
  EXPECT_EQ(good(torchrun).store, "tcp://node1:29501");
  torchrun[5] = "MASTER_ADDR=fd77::1";
  EXPECT_EQ(good(torchrun).store, "tcp://[fd77::1]:29501");
  torchrun.push_back("HORA_STORE=tcp://other:4711");
  EXPECT_TRUE(good(torchrun).serves_store);
  EXPECT_EQ(good(torchrun).store, "tcp://other:4711");

  const Environment mpich = {"PMI_RANK=1",        "PMI_SIZE=2", "MPI_LOCALRANKID=0",
                             "MPI_LOCALNRANKS=1", kSecret,      "HORA_STORE=tcp://node1:4711"};
  EXPECT_TRUE(good(mpich).serves_store);
  EXPECT_EQ(good(mpich).store, "tcp://node1:4711");
  EXPECT_EQ(good(mpich).cross_size, 2);
}

TEST(Config, SlurmTellsHostsAndTheFirstOne) {
  const Environment srun = {"SLURM_PROCID=3",
                            "SLURM_STEP_NUM_TASKS=5",
                            "SLURM_LOCALID=0",
                            "SLURM_NODEID=2",
                            "SLURM_STEP_NUM_NODES=3",
                            "SLURM_STEP_TASKS_PER_NODE=1(x2),3",
                            "SLURM_STEP_NODELIST=gpu[07-08,3],login",
                            "SLURM_JOB_ID=9",
                            "SLURM_STEP_ID=0",
                            kSecret};
  const Config config = good(srun);
  EXPECT_TRUE(config.serves_store);
  EXPECT_TRUE(config.store.starts_with("tcp://gpu07:2") ||
              config.store.starts_with("tcp://gpu07:3"))
      << config.store;
  EXPECT_EQ(config.local_rank, 0);
  EXPECT_EQ(config.local_size, 3);
  EXPECT_EQ(config.cross_rank, 2);
  EXPECT_EQ(config.cross_size, 3);
  Environment other = srun;
  other[7] = "SLURM_JOB_ID=10";
  EXPECT_NE(good(other).store, config.store);
}

TEST(Config, WhatRanksOfSeveralHostsLackIsTold) {
  const std::string torchrun = mistake(torchrun_on_two_hosts());
  EXPECT_TRUE(torchrun.starts_with("WORLD_SIZE=4 on 2 hosts: HORA_SECRET is not set: "))
      << torchrun;
  EXPECT_NE(torchrun.find("openssl rand -hex 32"), torchrun.npos) << torchrun;
  const std::string mpirun =
      mistake({"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=0",
               "OMPI_COMM_WORLD_LOCAL_SIZE=1", "PMIX_NAMESPACE=1", kSecret});
  EXPECT_TRUE(mpirun.starts_with("OMPI_COMM_WORLD_SIZE=2 on 2 hosts: HORA_STORE is not set: "))
      << mpirun;
  EXPECT_NE(mpirun.find("HORA_STORE=tcp://HOST:PORT"), mpirun.npos) << mpirun;
}

TEST(Config, RefusesARankOutsideTheJob) {
  const std::string text = mistake({"HORA_RANK=2", "HORA_SIZE=2", "HORA_STORE=unix:/s"});
  EXPECT_TRUE(text.starts_with("HORA_RANK=2: expected less than HORA_SIZE, which is 2\n")) << text;
  EXPECT_NE(mistake({"HORA_SIZE=2", "HORA_STORE=unix:/s"}).find("HORA_SIZE=2 without HORA_RANK"),
            std::string::npos);
}

TEST(Config, OriginsNameTheVariableThatWasUsed) {
  std::vector<std::string> origins;
  const Environment environment = {"HORA_LANES=3", "HOROVOD_FUSION_THRESHOLD=1048576"};
  ASSERT_TRUE(Config::parse(environment, &origins).ok());
  ASSERT_EQ(origins.size(), settings().size());
  for (size_t i = 0; i < origins.size(); ++i) {
    const std::string name = settings()[i].name;
    const std::string expected = name == "HORA_LANES"          ? "HORA_LANES"
                                 : name == "HORA_BUCKET_BYTES" ? "HOROVOD_FUSION_THRESHOLD"
                                                               : "default";
    EXPECT_EQ(origins[i], expected) << name;
  }
}

TEST(Digest, ChangesExactlyWithTheSettingsThatRanksMustShare) {
  const Config standard;
  Config other = standard;
  other.rank = 1;
  other.log_level = "trace";
  other.spin = 0;
  EXPECT_EQ(digest_text(other), digest_text(standard));
  other.bucket_bytes *= 2;
  EXPECT_NE(digest_text(other), digest_text(standard));
  EXPECT_NE(digest_text(other).find("HORA_BUCKET_BYTES=16 MiB\n"), std::string::npos);
  Config longer = standard;
  longer.failure_timeout = 11;
  EXPECT_NE(digest_text(longer), digest_text(standard));
}

TEST(Settings, NamesAreUnique) {
  for (const Setting& a : settings()) {
    for (const Setting& b : settings()) {
      if (&a == &b) continue;
      EXPECT_NE(std::string_view(a.name), std::string_view(b.name));
      if (a.alias[0] == '\0') continue;
      EXPECT_NE(std::string_view(a.alias), std::string_view(b.alias));
    }
  }
}

}  // namespace
}  // namespace hora
