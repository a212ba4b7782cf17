#include "launcher/elastic_options.h"

#include <algorithm>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

constexpr int kMostRanks = 4096;
constexpr double kLongestCooldown = 86400;

int64_t nanoseconds(double seconds) {
  return static_cast<int64_t>(seconds * 1e9);
}

}  // namespace

void ElasticOptions::add_to(CLI::App& app, RunOptions& options) {
  app.add_option("--min-np,--min-num-proc", min_ranks_, "Go on as long as so many ranks are left")
      ->type_name("N");
  app.add_option("--max-np,--max-num-proc", max_ranks_, "Use at most so many ranks")
      ->type_name("N");
  app.add_option("--host-discovery-script", options.discovery_script,
                 "Command that prints lines HOST:SLOTS; asked again and again")
      ->type_name("COMMAND");
  app.add_option("--slots-per-host,--slots", options.slots_per_host,
                 "Slots of a host that the script prints without a number (1)")
      ->type_name("N");
  app.add_option("--blacklist-after", options.failures_allowed,
                 "Do not use a slot again after so many failures (3)")
      ->type_name("N");
  app.add_option("--blacklist-cooldown-range", cooldown_,
                 "Rest of a slot after its first failure, doubling up to the second time (5s 5min)")
      ->type_name("TIME")
      ->expected(2);
  app.add_option("--reset-limit", options.reset_limit, "End when ranks met again more often")
      ->type_name("N");
}

std::string ElasticOptions::check(const CLI::App& app, RunOptions& options) const {
  const bool scripted = app.count("--host-discovery-script") > 0;
  options.elastic = scripted || app.count("--min-np") + app.count("--max-np") > 0;
  if (!options.elastic) {
    for (const char* name :
         {"--slots-per-host", "--blacklist-after", "--blacklist-cooldown-range", "--reset-limit"})
      if (app.count(name) > 0)
        return fmt::format("{} is for elastic jobs: give --min-np N too", name);
    return {};
  }
  if (scripted && !options.hosts.empty())
    return "--hosts and --host-discovery-script: give one of them";
  const bool has_ranks = app.count("--np") > 0;
  options.min_ranks = app.count("--min-np") > 0 ? min_ranks_ : has_ranks ? options.ranks : 1;
  if (!has_ranks) options.ranks = options.min_ranks;
  int slots = 0;
  for (const Host& host : options.hosts) slots = std::min(slots + host.slots, kMostRanks);
  options.max_ranks = app.count("--max-np") > 0 ? max_ranks_
                      : scripted                ? kMostRanks
                      : slots > 0               ? slots
                                                : options.ranks;
  if (slots > 0 && options.ranks > slots)
    return fmt::format("-np {}: {} have {} slots", options.ranks, to_text(options.hosts), slots);
  if (options.min_ranks < 1 || options.max_ranks > kMostRanks ||
      options.ranks < options.min_ranks || options.max_ranks < options.ranks)
    return fmt::format("--min-np {}, -np {}, --max-np {}: expected 1 <= min <= np <= max <= {}",
                       options.min_ranks, options.ranks, options.max_ranks, kMostRanks);
  if (options.failures_allowed < 1) return "--blacklist-after: expected at least 1";
  if (options.slots_per_host < 0) return "--slots-per-host: expected at least 0";
  if (app.count("--reset-limit") > 0 && options.reset_limit < 0)
    return "--reset-limit: expected at least 0";
  if (cooldown_.empty()) return {};
  const auto shortest = parse_seconds(cooldown_[0]), longest = parse_seconds(cooldown_[1]);
  if (!shortest || !longest || *shortest > *longest || *longest > kLongestCooldown)
    return fmt::format("--blacklist-cooldown-range {} {}: expected two times such as 5s 5min",
                       cooldown_[0], cooldown_[1]);
  options.cooldown = *shortest;
  options.longest_cooldown = *longest;
  return {};
}

ElasticPlan elastic_plan(const RunOptions& options, const Config& config) {
  ElasticPlan plan;
  RosterOptions& roster = plan.roster;
  roster.start_ranks = options.ranks;
  roster.min_ranks = options.min_ranks;
  roster.max_ranks = options.max_ranks;
  roster.slots_may_change = !options.discovery_script.empty();
  roster.failures_allowed = options.failures_allowed;
  if (options.reset_limit >= 0) roster.reset_limit = static_cast<uint64_t>(options.reset_limit);
  roster.timeout = nanoseconds(config.elastic_timeout);
  roster.cooldown = nanoseconds(options.cooldown);
  roster.longest_cooldown = nanoseconds(options.longest_cooldown);
  roster.grace = nanoseconds(options.grace);
  plan.hosts = options.hosts;
  if (plan.hosts.empty()) plan.hosts = {{"localhost", options.max_ranks, {}}};
  plan.discovery.script = options.discovery_script;
  plan.discovery.slots_per_host = options.slots_per_host;
  return plan;
}

}  // namespace hora
