#include "launcher/run.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <sstream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "hora/config.h"
#include "launcher/build_page.h"
#include "launcher/cores.h"
#include "launcher/elastic_options.h"
#include "launcher/explain.h"
#include "launcher/flag_advice.h"
#include "launcher/guard.h"
#include "launcher/host_options.h"
#include "launcher/program.h"
#include "runtime/compression_settings.h"
#include "runtime/log.h"
#include "runtime/quantity.h"
#include "runtime/store.h"

namespace hora {
namespace {

constexpr int kUsage = 2, kNotFound = 127;
constexpr std::string_view kRecords = "HORA_FLIGHT_DIR";
constexpr const char* kElsewhere = "another host";  // of an elastic job

constexpr const char* kExamples = R"(
Each rank gets HORA_RANK, HORA_SIZE and where to find the others (also RANK, WORLD_SIZE, LOCAL_RANK
and LOCAL_WORLD_SIZE, as torchrun sets them), and OMP_NUM_THREADS so that the ranks share the cores.
When a rank fails the others get --grace seconds to end by themselves; then they are stopped. The
failed rank's last lines are repeated at the end, and its exit code is horarun's.

A setting comes from its flag or -x, else from the environment, else from --config-file, else it has
its default; `hora config --origin` takes the same flags and shows which.

Examples:
  horarun -np 4 python train.py --epochs 3     four ranks on this machine
  horarun -np 2 --compression onebit python train.py
                                               compress gradients
  horarun -np 2 -x HORA_LOG_LEVEL=info python train.py
                                               with a variable set
  horarun -np 4 --min-np 2 python train.py     go on without ranks that die (docs/elastic.md)
  horarun -H a:4,b:4 python train.py           four ranks on each of two hosts, by ssh
  horarun -H a:4,b:4 --min-np 4 python train.py
                                               go on without a host that dies
  horarun -np 8 --dry-run python train.py      show what would be started
  horarun -np 8 --output-dir logs python train.py
                                               logs/rank.0/stdout and so on
  hora settings                                all settings
  hora doctor                                  what this machine can do
)";

std::string_view name_in(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

/// Where the program's name is: our own options end there, however the program's arguments look.
size_t program_index(const CLI::App& app, const std::vector<std::string>& arguments) {
  size_t i = 0;
  while (i < arguments.size() && arguments[i].size() > 1 && arguments[i][0] == '-') {
    const std::string& argument = arguments[i++];
    if (argument == "--") break;
    if (argument.find('=') != argument.npos) continue;
    const bool is_short = argument[1] != '-';
    if (is_short && argument.size() > 2) continue;  // -n4
    const CLI::Option* const option = app.get_option_no_throw(argument);
    if (option) i += static_cast<size_t>(option->get_items_expected_max());
  }
  return std::min(i, arguments.size());
}

/// Every setting that a user may set is a flag, and there may be a file of them.
class SettingFlags {
 public:
  SettingFlags(CLI::App& app, RunOptions& options) : app_(app) {
    for (const Setting& setting : settings()) {
      if (flag_of(setting).empty()) continue;
      const std::string_view standard = setting.standard;
      const std::string help =
          standard.empty() ? setting.help : fmt::format("{} ({})", setting.help, standard);
      app.add_option(flag_of(setting), values_[setting.name], help)
          ->type_name(setting.name)
          ->group("Settings");
    }
    app.add_option("--config-file", options.config_file,
                   "Settings from a file: key = value (.toml) or key: value (.yaml)")
        ->type_name("FILE");
  }

  /// The ones given, as variables.
  void take(RunOptions& options) {
    for (const Setting& setting : settings())
      if (const std::string flag = flag_of(setting); !flag.empty() && app_.count(flag) > 0)
        options.variables.push_back(fmt::format("{}={}", setting.name, values_[setting.name]));
  }

 private:
  CLI::App& app_;
  std::map<std::string, std::string> values_;
};

/// The library's usage line does not know of the program to start.
std::string help_of(const CLI::App& app, const std::string& program) {
  std::string text = app.help();
  const std::string theirs = program + " [OPTIONS]";
  const size_t at = text.find(theirs);
  if (at != text.npos)
    text.replace(at, theirs.size(), program + " -np N [options] program [arguments...]");
  return text;
}

ParsedRun ending(int code, std::string text) {
  return {false, {}, {code, std::move(text)}};
}

ParsedRun mistake(const std::string& program, const std::string& text) {
  return ending(kUsage, fmt::format("{}: {}\nTry `{} --help`.\n", program, text, program));
}

/// What CLI11 found to be wrong.
ParsedRun mistake(const std::string& program, const CLI::App& app, const CLI::Error& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (unknown.empty()) return mistake(program, error.what());
  std::vector<std::string> known;
  for (const CLI::Option* const option : app.get_options())
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  return mistake(program, flag_advice(unknown[0], known));
}

/// Who the rank is and where the others are, as HORA_ variables and as torchrun's.
void set_identity(std::map<std::string, std::string>& variables, const RunOptions& options,
                  int rank, const RankPlace& place) {
  const auto set = [&](std::initializer_list<const char*> names, int value) {
    for (const char* name : names) variables[name] = std::to_string(value);
  };
  set({"HORA_RANK", "RANK"}, rank);
  set({"HORA_SIZE", "WORLD_SIZE"}, options.elastic ? 1 : options.ranks);
  set({"HORA_LOCAL_RANK", "LOCAL_RANK"}, place.local_rank);
  set({"HORA_LOCAL_SIZE", "LOCAL_WORLD_SIZE"}, place.local_size);
  set({"HORA_CROSS_RANK"}, place.cross_rank);
  set({"HORA_CROSS_SIZE"}, place.cross_size);
  if (options.elastic)  // told when an epoch begins, and different in each
    for (const char* name : {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "HORA_WORKER"})
      variables.erase(name);
}

/// Are there ranks on other hosts, or may a script name some?
bool may_reach_out(const RunOptions& options) {
  const auto is_other = [](const Host& host) { return !is_this_machine(host.name); };
  return !options.discovery_script.empty() ||
         std::any_of(options.hosts.begin(), options.hosts.end(), is_other);
}

/// Do ranks run here, or may they?
bool needs_this_machine(const RunOptions& options) {
  const auto is_here = [](const Host& host) { return is_this_machine(host.name); };
  return options.hosts.empty() || std::any_of(options.hosts.begin(), options.hosts.end(), is_here);
}

/// What an agent knows better than we do it adds itself.
std::vector<std::string> rank_environment(const RunOptions& options,
                                          const Surroundings& surroundings, int rank,
                                          const RankPlace& place, bool is_remote,
                                          const std::string& addresses) {
  auto variables =
      variables_of(is_remote ? portable(surroundings.environment) : surroundings.environment);
  for (const std::string& variable : options.variables) {
    const std::string name(name_in(variable));
    variables[name] = variable.substr(name.size() + 1);
  }
  set_identity(variables, options, rank, place);
  const std::string& store = is_remote ? surroundings.network_store : surroundings.store;
  if (!store.empty()) variables["HORA_STORE"] = store;
  variables["HORA_JOB"] = surroundings.job;
  if (!surroundings.secret.empty()) variables["HORA_SECRET"] = surroundings.secret;
  if (!addresses.empty()) variables.try_emplace("HORA_ADDRESS", addresses);
  const bool bounded = options.elastic && options.discovery_script.empty();
  const int sharers = bounded ? options.max_ranks : place.local_size;
  if (!is_remote)
    variables.try_emplace("OMP_NUM_THREADS",
                          std::to_string(std::max(1, surroundings.cores / sharers)));
  // Python would keep lines back, since a pipe is not a terminal.
  variables.try_emplace("PYTHONUNBUFFERED", "1");
  std::vector<std::string> result = entries_of(variables);
  std::vector<FileSetting> defaults = surroundings.file;
  if (!surroundings.records.empty() && !is_remote) {
    const auto is_it = [](const FileSetting& each) { return each.variable == kRecords; };
    if (std::none_of(defaults.begin(), defaults.end(), is_it))
      defaults.push_back({std::string(kRecords), surroundings.records, {}});
  }
  result = with_defaults(std::move(result), defaults);
  std::sort(result.begin(), result.end());
  return result;
}

RemotePlan remote_plan(const RunOptions& options, const Surroundings& surroundings,
                       const Config& config) {
  RemotePlan plan;
  plan.route = {"", options.remote_shell, surroundings.program, surroundings.environment};
  plan.folder = surroundings.folder;
  plan.store = surroundings.network_store;
  plan.records = surroundings.records;
  plan.start_timeout = std::chrono::milliseconds(static_cast<int64_t>(config.start_timeout * 1000));
  return plan;
}

/// Each rank's command, host by host.
Result<std::vector<RankCommand>> fixed_ranks(const RunOptions& options,
                                             const Surroundings& surroundings) {
  const std::vector<Host> here = {{"localhost", options.ranks, {}}};
  const std::vector<Host>& hosts = options.hosts.empty() ? here : options.hosts;
  const auto places = place_ranks(hosts, options.ranks);
  HORA_TRY(places.status());
  const size_t digits = std::to_string(options.ranks - 1).size();
  std::vector<RankCommand> ranks;
  for (const RankPlace& place : places.value()) {
    const Host& host = hosts[static_cast<size_t>(place.host)];
    const bool is_remote = !is_this_machine(host.name);
    const auto rank = static_cast<int>(ranks.size());
    ranks.push_back(
        {{},
         options.command,
         rank_environment(options, surroundings, rank, place, is_remote, host.addresses),
         {},
         is_remote ? host.name : std::string()});
    if (!options.output_dir.empty())
      ranks.back().output = fmt::format("{}/rank.{:0{}}", options.output_dir, rank, digits);
  }
  return ranks;
}

/// What all ranks here execute, and what all on other hosts do. Ranks change; the number of a
/// process does not.
std::vector<RankCommand> elastic_ranks(const RunOptions& options,
                                       const Surroundings& surroundings) {
  std::vector<RankCommand> ranks;
  for (const bool is_remote : {false, true}) {
    if (is_remote && !may_reach_out(options)) continue;
    ranks.push_back({{},
                     options.command,
                     rank_environment(options, surroundings, 0, {}, is_remote, {}),
                     options.output_dir.empty() ? "" : options.output_dir + "/worker",
                     is_remote ? kElsewhere : ""});
  }
  return ranks;
}

std::string random_name() {
  std::random_device device;
  return fmt::format("{:08x}", device());
}

int complain(const std::string& program, const Status& status) {
  std::istringstream lines(status.message());
  for (std::string line; std::getline(lines, line);) fmt::print(stderr, "{}: {}\n", program, line);
  return status.code() == Code::kUnavailable ? kNotFound : kUsage;
}

/// After a failure.
void tell_cause(const std::string& program, const JobPlan& plan, const Surroundings& surroundings) {
  const auto variables = variables_of(plan.ranks[0].environment);
  const auto found = variables.find(std::string(kRecords));
  if (found == variables.end()) return;
  const std::string text = explain_failure(found->second);
  if (text.empty()) return;
  fmt::print(stderr, "{}: what the ranks' last operations tell:\n{}", program, text);
  if (found->second != surroundings.records)
    fmt::print(stderr, "`hora explain {}` tells it again.\n", shell_quoted(found->second));
}

}  // namespace

ParsedRun parse_run(const std::string& program, const std::vector<std::string>& arguments) {
  CLI::App app("Starts a program as several ranks that reduce their gradients together.", program);
  RunOptions options;
  std::string grace = "15s";
  std::vector<std::string> exports;
  bool no_prefix = false;
  app.footer(kExamples);
  app.add_option("-n,--np,--num-proc", options.ranks, "Number of ranks; -np works too")
      ->type_name("N");
  app.add_option("-x", exports, "Set a variable for all ranks; may be repeated")
      ->type_name("NAME=VALUE")
      ->expected(1)
      ->take_all();
  SettingFlags flags(app, options);
  ElasticOptions elastic;
  elastic.add_to(app, options);
  HostOptions hosts;
  hosts.add_to(app, options);
  app.add_option("--grace", grace, "Time for the others to end when one rank failed (15s)")
      ->type_name("TIME");
  app.add_flag("--no-prefix", no_prefix, "Do not put [rank] before each line of output");
  app.add_option("--output-dir,--output-filename", options.output_dir,
                 "Write each rank's output to DIR/rank.N/stdout and stderr instead of ours")
      ->type_name("DIR");
  app.add_flag("--dry-run", options.dry_run, "Print commands and environment, start nothing");
  app.add_flag("--check-build", options.check_build, "Say what is built in");
  app.set_version_flag("--version", "hora " HORA_VERSION);

  std::vector<std::string> words = arguments;
  const size_t first = [&] {
    for (size_t i = 0; i < words.size() && i < program_index(app, words); ++i) {
      if (words[i] == "-np") words[i] = "--np";
      if (words[i] == "-cb") words[i] = "--check-build";
      if (words[i] == "-hostfile") words[i] = "--hostfile";
    }
    return program_index(app, words);
  }();
  options.command.assign(words.begin() + static_cast<std::ptrdiff_t>(first), words.end());
  words.resize(first);
  if (!words.empty() && words.back() == "--") words.pop_back();
  try {
    std::reverse(words.begin(), words.end());
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    return ending(0, help_of(app, program));
  } catch (const CLI::CallForVersion& version) {
    return ending(0, std::string(version.what()) + "\n");
  } catch (const CLI::Error& error) {
    return mistake(program, app, error);
  }

  if (options.check_build) return ending(0, build_page());
  for (const std::string& wrong : {hosts.check(app, options), elastic.check(app, options)})
    if (!wrong.empty()) return mistake(program, wrong);
  if (app.count("--np") == 0 && !options.elastic && options.hosts.empty())
    return mistake(program, "how many ranks? Give -np N, such as -np 2");
  if (options.ranks < 1)
    return mistake(program, fmt::format("-np {}: expected at least 1 rank", options.ranks));
  if (options.command.empty())
    return mistake(program, "which program? Give it after the options, such as `python train.py`");
  const auto seconds = parse_seconds(grace);
  if (!seconds || *seconds > 86400)
    return mistake(program, fmt::format("--grace {}: expected a time such as 15s", grace));
  options.grace = *seconds;
  options.prefix = !no_prefix;
  for (const std::string& variable : exports) {
    if (variable.find('=') == variable.npos || variable[0] == '=')
      return mistake(program, fmt::format("-x {}: expected NAME=VALUE", variable));
    options.variables.push_back(variable);
  }
  flags.take(options);
  return {true, std::move(options), {}};
}

ParsedRun parse_settings_flags(const std::string& program,
                               const std::vector<std::string>& arguments, bool& origin) {
  CLI::App app("Shows the settings in force and where each comes from: flag, environment, file.",
               program);
  RunOptions options;
  SettingFlags flags(app, options);
  app.add_flag("--origin", origin, "Also what each value was chosen over");
  std::vector<std::string> words(arguments.rbegin(), arguments.rend());
  try {
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    return ending(0, app.help());
  } catch (const CLI::Error& error) {
    return mistake(program, app, error);
  }
  flags.take(options);
  return {true, std::move(options), {}};
}

Result<JobPlan> make_plan(const RunOptions& options, const Surroundings& surroundings) {
  JobPlan plan;
  plan.prefix = options.prefix;
  plan.grace = std::chrono::milliseconds(static_cast<int64_t>(options.grace * 1000));
  if (options.elastic) {
    plan.ranks = elastic_ranks(options, surroundings);
  } else {
    auto ranks = fixed_ranks(options, surroundings);
    HORA_TRY(ranks.status());
    plan.ranks = std::move(ranks).value();
  }
  const Result<Config> config = Config::parse(plan.ranks[0].environment);
  HORA_TRY(config.status());
  HORA_TRY(check_compression_before_start(config.value()));
  if (options.elastic) plan.elastic = elastic_plan(options, config.value());
  plan.remote = remote_plan(options, surroundings, config.value());
  for (RankCommand& rank : plan.ranks) {
    if (!rank.host.empty() || !needs_this_machine(options)) continue;  // agents look there
    Result<std::string> program = find_program(options.command[0], rank.environment);
    HORA_TRY(program.status());
    rank.program = std::move(program).value();
  }
  return plan;
}

std::string describe_plan(const JobPlan& plan, const Surroundings& surroundings) {
  const std::set<std::string> before(surroundings.environment.begin(),
                                     surroundings.environment.end());
  std::string text = fmt::format("# {} rank{} on {} core{}\n", plan.ranks.size(),
                                 plan.ranks.size() == 1 ? "" : "s", surroundings.cores,
                                 surroundings.cores == 1 ? "" : "s");
  for (size_t i = 0; i < plan.ranks.size(); ++i) {
    const RankCommand& rank = plan.ranks[i];
    const std::string where = rank.host.empty() ? "" : " on " + rank.host;
    text += plan.elastic
                ? fmt::format("# each of {} to {} ranks{}\n", plan.elastic->roster.min_ranks,
                              plan.elastic->roster.max_ranks, where)
                : fmt::format("# rank {}{}\n", i, where);
    for (const std::string& variable : rank.environment) {
      if (before.count(variable) > 0) continue;
      const std::string name(name_in(variable));
      text += fmt::format("{}={} ", name, shell_quoted(variable.substr(name.size() + 1)));
    }
    text += shell_quoted(rank.program.empty() ? rank.arguments[0] : rank.program);
    for (size_t k = 1; k < rank.arguments.size(); ++k)
      text += " " + shell_quoted(rank.arguments[k]);
    if (!rank.output.empty())
      text += fmt::format(" > {} 2> {}", shell_quoted(rank.output + "/stdout"),
                          shell_quoted(rank.output + "/stderr"));
    text += "\n";
  }
  return text;
}

int run_main(const std::string& program, const std::vector<std::string>& arguments) {
  const ParsedRun parsed = parse_run(program, arguments);
  if (!parsed.run) {
    fmt::print(parsed.ending.code == 0 ? stdout : stderr, "{}", parsed.ending.text);
    return parsed.ending.code;
  }
  const RunOptions& options = parsed.options;
  Surroundings surroundings{
      environment(), "unix:/tmp/hora-XXXXXX/store", random_name(), allowed_cores(), {}};
  if (may_reach_out(options)) {
    std::error_code ignored;
    surroundings.network_store = "tcp://here:0";
    surroundings.secret = std::string(64, '0');  // until there is one
    surroundings.folder = std::filesystem::current_path(ignored).string();
    surroundings.program = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  }
  if (!options.config_file.empty()) {
    auto file = read_settings_file(options.config_file);
    if (!file.ok()) return complain(program, file.status());
    surroundings.file = std::move(file).value();
  }
  // A mistake is told before there is anything to clean up.
  const Result<JobPlan> trial = make_plan(options, surroundings);
  if (!trial.ok()) return complain(program, trial.status());
  if (options.dry_run) {
    fmt::print("{}", describe_plan(trial.value(), surroundings));
    return 0;
  }
  const Result<Config> config = Config::parse(trial.value().ranks[0].environment);
  const Log log("horarun", log_level_of(config.value().log_level));
  if (options.hosts.empty() && options.ranks > surroundings.cores)
    log.info("{} ranks share {} cores", options.ranks, surroundings.cores);

  const SystemClock clock;
  return run_guarded(clock, [&](const std::string& directory) {
    Asks asks;
    StoreServer::Watch watch;
    if (options.elastic) watch = [&asks](std::string_view key) { asks.see(key); };
    StoreServer::Network network;
    if (may_reach_out(options)) {
      Result<std::string> secret = random_secret();
      if (!secret.ok()) return complain(program, secret.status());
      surroundings.secret = std::move(secret).value();
      network.key = {surroundings.job, surroundings.secret, config.value().tls != 0};
      network.bind = config.value().address;
      network.warn = [&log](const std::string& text) { log.warning("{}", text); };
    }
    const auto server = StoreServer::start(directory + "/store", watch,
                                           may_reach_out(options) ? &network : nullptr);
    if (!server.ok()) {
      log.error("{}", server.status().message());
      return 1;
    }
    surroundings.store = server.value()->address();
    surroundings.network_store = server.value()->network_address();
    surroundings.records = directory + "/records";
    const Result<JobPlan> plan = make_plan(options, surroundings);
    if (!plan.ok()) return complain(program, plan.status());
    if (!options.elastic) {
      const int code = run_job(plan.value(), clock);
      if (code != 0 && code != 128 + SIGINT && code != 128 + SIGTERM)
        tell_cause(program, plan.value(), surroundings);
      return code;
    }
    const auto store = connect_store(surroundings.store, std::chrono::seconds(10));
    if (!store.ok()) return complain(program, store.status());
    return run_job(plan.value(), clock, &asks, store.value());
  });
}

}  // namespace hora
