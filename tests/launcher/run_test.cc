// Goal: a command line means what it says, and a wrong one is told how to be right.
// Method: parse_run() and make_plan() on made-up words and environments.
#include "launcher/run.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "launcher/elastic_options.h"
#include "launcher/program.h"

namespace hora {
namespace {

using Words = std::vector<std::string>;

RunOptions options_of(const Words& words) {
  const ParsedRun parsed = parse_run("horarun", words);
  EXPECT_TRUE(parsed.run) << parsed.ending.text;
  return parsed.options;
}

std::string mistake(const Words& words) {
  const ParsedRun parsed = parse_run("horarun", words);
  EXPECT_FALSE(parsed.run);
  EXPECT_EQ(parsed.ending.code, 2);
  return parsed.ending.text;
}

bool has(const RankCommand& rank, const std::string& variable) {
  return std::count(rank.environment.begin(), rank.environment.end(), variable) == 1;
}

TEST(ParseRun, TakesEverySpellingOfTheNumberOfRanks) {
  for (const Words& words : {Words{"-np", "4", "p"},
                             {"-n", "4", "p"},
                             {"-n4", "p"},
                             {"--np", "4", "p"},
                             {"--np=4", "p"},
                             {"--num-proc", "4", "p"},
                             {"-n", "4", "--", "p"}}) {
    const RunOptions options = options_of(words);
    EXPECT_EQ(options.ranks, 4);
    EXPECT_EQ(options.command, Words{"p"});
  }
}

TEST(ParseRun, LeavesTheProgramsArgumentsAlone) {
  const Words command = {"python", "-x", "A=1", "--np", "9", "-np", "--help", "--", "--dry-run"};
  Words words = {"--no-prefix", "-np", "2", "-x", "B=2"};
  words.insert(words.end(), command.begin(), command.end());
  const RunOptions options = options_of(words);
  EXPECT_EQ(options.ranks, 2);
  EXPECT_EQ(options.command, command);
  EXPECT_EQ(options.variables, Words{"B=2"});
  EXPECT_FALSE(options.prefix);
  EXPECT_FALSE(options.dry_run);
}

TEST(ParseRun, FlagsThatAreSettingsBecomeVariables) {
  const RunOptions options =
      options_of({"-np", "2", "--compression", "topk:0.01", "--failure-timeout=3s", "-x",
                  "A=", "-x", "B=x=y", "--grace", "500ms", "p"});
  EXPECT_EQ(options.variables,
            (Words{"A=", "B=x=y", "HORA_COMPRESSION=topk:0.01", "HORA_FAILURE_TIMEOUT=3s"}));
  EXPECT_EQ(options.grace, 0.5);
}

TEST(ParseRun, BoundsMakeAJobElastic) {
  EXPECT_FALSE(options_of({"-np", "2", "p"}).elastic);
  const RunOptions least = options_of({"-np", "4", "--min-np", "2", "p"});
  EXPECT_TRUE(least.elastic);
  EXPECT_EQ(least.ranks, 4);
  EXPECT_EQ(least.min_ranks, 2);
  EXPECT_EQ(least.max_ranks, 4);
  const RunOptions scripted = options_of(
      {"--min-num-proc", "2", "--host-discovery-script", "cat hosts", "--blacklist-cooldown-range",
       "1", "2min", "--blacklist-after", "5", "--reset-limit=7", "p", "1", "2"});
  EXPECT_EQ(scripted.ranks, 2);
  EXPECT_EQ(scripted.max_ranks, 4096);
  EXPECT_EQ(scripted.discovery_script, "cat hosts");
  EXPECT_EQ(scripted.cooldown, 1);
  EXPECT_EQ(scripted.longest_cooldown, 120);
  EXPECT_EQ(scripted.command, (std::vector<std::string>{"p", "1", "2"}));
  EXPECT_EQ(scripted.failures_allowed, 5);
  EXPECT_EQ(scripted.reset_limit, 7);
}

TEST(ParseRun, ExplainsWrongBounds) {
  EXPECT_NE(mistake({"--min-np", "3", "--max-np", "2", "p"}).find("1 <= min <= np <= max"),
            std::string::npos);
  EXPECT_NE(mistake({"-np", "1", "--min-np", "2", "p"}).find("--min-np 2, -np 1"),
            std::string::npos);
  EXPECT_NE(mistake({"-np", "2", "--reset-limit", "1", "p"}).find("--min-np"), std::string::npos);
  EXPECT_NE(mistake({"--min-np", "2", "--blacklist-cooldown-range", "2", "1", "p"})
                .find("two times such as"),
            std::string::npos);
}

TEST(ParseRun, EverySettingButWhatTheLauncherTellsIsAFlag) {
  Words words = {"-np", "2"}, expected;
  for (const Setting& setting : settings()) {
    const std::string name = setting.name;
    const bool ours = name.ends_with("RANK") || name.ends_with("SIZE") || name == "HORA_STORE" ||
                      name == "HORA_JOB" || name == "HORA_WORKER" || name == "HORA_SECRET";
    EXPECT_EQ(flag_of(setting).empty(), ours) << name;
    if (ours) continue;
    words.insert(words.end(), {flag_of(setting), "7"});
    expected.push_back(name + "=7");
  }
  words.push_back("p");
  EXPECT_EQ(options_of(words).variables, expected);
}

TEST(ParseRun, ExplainsAWrongCommandLine) {
  EXPECT_NE(mistake({"p"}).find("-np N"), std::string::npos);
  EXPECT_NE(mistake({"-np", "0", "p"}).find("at least 1"), std::string::npos);
  EXPECT_NE(mistake({"-np", "2"}).find("which program?"), std::string::npos);
  EXPECT_NE(mistake({"-np", "x", "p"}).find("x"), std::string::npos);
  EXPECT_NE(mistake({"-np", "2", "--fast", "p"}).find("--fast"), std::string::npos);
  EXPECT_NE(mistake({"-np", "2", "-x", "A", "p"}).find("NAME=VALUE"), std::string::npos);
  EXPECT_NE(mistake({"-np", "2", "--grace", "soon", "p"}).find("15s"), std::string::npos);
}

TEST(ParseRun, TellsWhatIsMeantByAnUnknownFlag) {
  EXPECT_NE(mistake({"-np", "2", "--lane", "3", "p"})
                .find("--lane: no such option; did you mean "
                      "--lanes?\n"),
            std::string::npos);
  EXPECT_NE(mistake({"-np", "2", "--fusion-threshold-mb", "64", "p"})
                .find("--fusion-threshold-mb is horovodrun's: give --bucket-bytes"),
            std::string::npos);
  EXPECT_NE(mistake({"-H", "a:2", "--ssh-port", "22", "p"})
                .find("--ssh-port is horovodrun's: give --rsh 'ssh -p PORT'"),
            std::string::npos);
}

TEST(ParseRun, TakesHostsWithOrWithoutTheNumberOfRanks) {
  const ParsedRun all = parse_run("horarun", {"-H", "a:2,b:3", "p"});
  ASSERT_TRUE(all.run) << all.ending.text;
  EXPECT_EQ(all.options.ranks, 5);
  EXPECT_EQ(to_text(all.options.hosts), "a:2,b:3");
  EXPECT_EQ(all.options.remote_shell.substr(0, 4), "ssh ");
  const ParsedRun some =
      parse_run("horarun", {"-np", "3", "--hosts", "a:2,b:3", "--rsh", "ssh -p 22", "p"});
  ASSERT_TRUE(some.run) << some.ending.text;
  EXPECT_EQ(some.options.ranks, 3);
  EXPECT_EQ(some.options.remote_shell, "ssh -p 22");
  EXPECT_NE(mistake({"-np", "2", "--rsh", "ssh", "p"}).find("--rsh is for several hosts"),
            std::string::npos);
}

TEST(ParseRun, AnElasticJobUsesAllSlotsOfItsHosts) {
  const ParsedRun all = parse_run("horarun", {"-H", "a:2,b:3", "--min-np", "2", "p"});
  ASSERT_TRUE(all.run) << all.ending.text;
  EXPECT_TRUE(all.options.elastic);
  EXPECT_EQ(all.options.min_ranks, 2);
  EXPECT_EQ(all.options.ranks, 2);
  EXPECT_EQ(all.options.max_ranks, 5);
  EXPECT_EQ(elastic_plan(all.options, Config()).hosts, all.options.hosts);
  EXPECT_NE(mistake({"-H", "a:2", "--min-np", "3", "p"}).find("-np 3: a:2 have 2 slots"),
            std::string::npos);
  EXPECT_NE(mistake({"-H", "a:2", "--host-discovery-script", "x", "p"})
                .find("--hosts and --host-discovery-script: give one of them"),
            std::string::npos);
  EXPECT_TRUE(parse_run("horarun", {"--host-discovery-script", "x", "--rsh", "y", "p"}).run);
}

TEST(ParseRun, HelpTeachesAndEndsWell) {
  const ParsedRun parsed = parse_run("horarun", {"--help"});
  EXPECT_FALSE(parsed.run);
  EXPECT_EQ(parsed.ending.code, 0);
  EXPECT_NE(parsed.ending.text.find("horarun -np N [options] program"), std::string::npos);
  EXPECT_NE(parsed.ending.text.find("Examples:"), std::string::npos);
}

TEST(MakePlan, RanksOfOtherHostsGetTheirPlaceAndNothingOfThisMachine) {
  const ParsedRun parsed = parse_run("horarun", {"-H", "localhost:1,192.0.2.1:2", "sh"});
  Surroundings here{
      {"PATH=/bin:/usr/bin", "HOME=/root", "SSH_AUTH_SOCK=/s", "KEEP=1"}, "unix:/s", "j", 8, {}};
  here.network_store = "tcp://192.0.2.9:1";
  here.secret = std::string(64, '1');
  here.folder = "/work";
  const auto plan = make_plan(parsed.options, here);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan.value().remote.folder, "/work");
  EXPECT_EQ(plan.value().ranks[0].host, "");
  EXPECT_EQ(plan.value().ranks[2].host, "192.0.2.1");
  const auto variables = variables_of(plan.value().ranks[2].environment);
  const auto is = [&](const char* name, const std::string& value) {
    const auto found = variables.find(name);
    return found != variables.end() && found->second == value;
  };
  EXPECT_TRUE(is("HORA_RANK", "2") && is("HORA_LOCAL_RANK", "1") && is("HORA_CROSS_RANK", "0") &&
              is("HORA_STORE", "tcp://192.0.2.9:1") && is("HORA_SECRET", here.secret) &&
              is("KEEP", "1"));
  for (const char* name : {"HOME", "SSH_AUTH_SOCK", "OMP_NUM_THREADS", "HORA_FLIGHT_DIR"})
    EXPECT_EQ(variables.count(name), 0u) << name;
}

TEST(MakePlan, TellsEachRankWhoItIs) {
  const Surroundings here{{"PATH=/bin", "HORA_RANK=77", "KEEP=1"}, "unix:/s", "job1", 8, {}};
  const auto plan = make_plan(options_of({"-np", "3", "-x", "MINE=2", "sh", "-c", "x"}), here);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  ASSERT_EQ(plan.value().ranks.size(), 3u);
  const RankCommand& rank = plan.value().ranks[2];
  EXPECT_EQ(rank.program, "/bin/sh");
  EXPECT_EQ(rank.arguments, (Words{"sh", "-c", "x"}));
  for (const char* variable :
       {"HORA_RANK=2", "HORA_SIZE=3", "HORA_LOCAL_RANK=2", "HORA_LOCAL_SIZE=3", "HORA_CROSS_RANK=0",
        "HORA_CROSS_SIZE=1", "HORA_STORE=unix:/s", "HORA_JOB=job1", "RANK=2", "WORLD_SIZE=3",
        "LOCAL_RANK=2", "LOCAL_WORLD_SIZE=3", "OMP_NUM_THREADS=2", "KEEP=1", "MINE=2"})
    EXPECT_TRUE(has(rank, variable)) << variable;
}

TEST(MakePlan, SharesTheCoresButAtLeastOneAndNotAgainstTheUser) {
  Surroundings here{{"PATH=/bin"}, "unix:/s", "j", 2, {}};
  EXPECT_TRUE(
      has(make_plan(options_of({"-np", "8", "sh"}), here).value().ranks[0], "OMP_NUM_THREADS=1"));
  here.environment.push_back("OMP_NUM_THREADS=5");
  EXPECT_TRUE(
      has(make_plan(options_of({"-np", "8", "sh"}), here).value().ranks[0], "OMP_NUM_THREADS=5"));
}

TEST(MakePlan, AFlagWinsOverTheEnvironmentOverTheFile) {
  const Surroundings here{
      {"PATH=/bin", "HORA_SEED=1", "HORA_LANES="},
      "unix:/s",
      "j",
      2,
      {{"HORA_SEED", "2", "f:1"}, {"HORA_LANES", "3", "f:2"}, {"HORA_SPIN", "4", "f:3"}}};
  const auto plan = make_plan(options_of({"-np", "2", "--spin", "0", "sh"}), here);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  for (const char* variable : {"HORA_SEED=1", "HORA_LANES=3", "HORA_SPIN=0"})
    EXPECT_TRUE(has(plan.value().ranks[1], variable)) << variable;
}

TEST(MakePlan, OutputFilesAreNumberedWithAsManyDigitsAsTheLastRank) {
  const Surroundings here{{"PATH=/bin"}, "unix:/s", "j", 2, {}};
  const auto plan = make_plan(options_of({"-np", "11", "--output-dir", "logs", "sh"}), here);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan.value().ranks[3].output, "logs/rank.03");
  EXPECT_NE(describe_plan(plan.value(), here)
                .find("/bin/sh > logs/rank.10/stdout 2> "
                      "logs/rank.10/stderr\n"),
            std::string::npos);
}

TEST(MakePlan, AMistakeInTheCompressionIsTold) {
  const auto message = [](const char* setting, const char* speeds = "usual") {
    const Surroundings here{
        {"PATH=/bin", std::string("HORA_CODEC_SPEEDS=") + speeds}, "unix:/s", "j", 2, {}};
    return make_plan(options_of({"-np", "2", "--compression", setting, "sh"}), here)
        .status()
        .message();
  };
  EXPECT_EQ(message("ef+topk:ratoi=1%"),
            "HORA_COMPRESSION: compression, character 9: 'topk' has no key 'ratoi'; did you mean "
            "'ratio'?");
  EXPECT_EQ(message("onebit;agg=gathr"),
            "HORA_COMPRESSION: compression, character 8: no aggregation 'gathr'; did you mean "
            "'gather'?");
  EXPECT_EQ(message("none", "onebat=1/2/3"),
            "HORA_CODEC_SPEEDS: character 1: no chain of auto is 'onebat'; did you mean 'onebit'?");
  // Stages that the program adds are known to the ranks only.
  for (const char* setting : {"none", "mine:key=1+golomb", "none;rule=dim>1->ef+mine"})
    EXPECT_EQ(message(setting), "") << setting;
  EXPECT_NE(message("mine", "onebat=1/2/3"), "");
}

TEST(MakePlan, RefusesWhatTheRanksWouldRefuse) {
  const Surroundings here{{"PATH=/bin"}, "unix:/s", "j", 2, {}};
  const auto wrong = make_plan(options_of({"-np", "2", "--backend", "carrier-pigeon", "sh"}), here);
  EXPECT_EQ(wrong.status().code(), Code::kInvalidArgument);
  EXPECT_NE(wrong.status().message().find("auto, shm, tcp, gloo"), std::string::npos);
  const auto missing = make_plan(options_of({"-np", "2", "train.py"}), here);
  EXPECT_EQ(missing.status().code(), Code::kUnavailable);
  EXPECT_NE(missing.status().message().find("python train.py"), std::string::npos);
}

}  // namespace
}  // namespace hora
