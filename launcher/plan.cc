#include "launcher/plan.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "compressors/rules.h"
#include "hora/config.h"
#include "launcher/command_line.h"
#include "launcher/doctor_hosts.h"
#include "launcher/hosts.h"
#include "ops/auto_chain.h"
#include "runtime/clock.h"
#include "runtime/quantity.h"

namespace hora {

Result<LinkCost> link_of(const std::string& text) {
  const auto link = parse_link(text);
  if (!link)
    return Status(Code::kInvalidArgument,
                  fmt::format("\"{}\" is no link: give its rate and one-way delay, as in 1gbit, "
                              "10gbit,50us or 100mbit,20ms",
                              text));
  return LinkCost{kUsualAcross.latency + link->seconds, kUsualAcross.overhead,
                  link->bytes_per_second};
}

std::string plan_page(const Topology& topology, size_t most) {
  std::string page = fmt::format("allreduce over {} ranks: {} on each of {}\n\n", topology.ranks(),
                                 topology.ranks_per_host, topology.hosts);
  const bool both = topology.hosts > 1 && topology.ranks_per_host > 1;
  page += fmt::format("{:>10}  {:>10}  {:>12}  {:<12}  {}\n", "bytes",
                      topology.hosts == 1 ? "inside" : "flat", both ? "hierarchical" : "", "choice",
                      "why");
  for (size_t bytes = 4; bytes <= most; bytes *= 16) {
    const Prediction best = choose(topology, bytes);
    const Route first = topology.hosts == 1 ? Route::kInside : Route::kFlat;
    page +=
        fmt::format("{:>10}  {:>10}  {:>12}  {:<12}  {}\n", bytes,
                    time_text(predict(topology, first, bytes).seconds),
                    both ? time_text(predict(topology, Route::kHierarchical, bytes).seconds) : "",
                    name_of(best.route), reason(topology, bytes));
  }
  return page;
}

Result<std::string> compression_plan(std::string_view setting, const Topology& topology) {
  constexpr int64_t kBudget = 100'000'000;
  const auto rules = CompressionRules::parse(setting);
  if (!rules.ok()) return rules.status();
  const auto error = rules.value().automatic();
  if (!error)
    return Status(Code::kInvalidArgument,
                  fmt::format("'{}' leaves nothing to choose; 'auto' does, and `hora compress "
                              "explain` is for other settings",
                              setting));
  AutoJob job{topology, measure_speeds([clock = SystemClock()] { return clock.now(); }, kBudget)};
  job.carry_bytes = Config().carry_bytes;
  return AutoChain(std::move(job)).table(*error);
}

namespace {

struct PlanOptions {
  std::string hosts = "1", link, most = "64 MiB", compression;
  size_t ranks_per_host = 0;
  RunOptions run;  ///< how to get to the hosts, and who they are if they have names
};

int wrong(const std::string& text) {
  fmt::print(stderr, "hora plan: {}\n", text);
  return 2;
}

/// Hosts by number, or by names.
Status count_hosts(PlanOptions& options, Topology& topology) {
  constexpr uint64_t kMostHosts = 1'000'000;
  if (const auto number = parse_integer(options.hosts)) {
    if (*number < 1 || *number > kMostHosts)
      return Status(Code::kInvalidArgument,
                    fmt::format("--hosts {}: expected 1 to {}", options.hosts, kMostHosts));
    topology.hosts = *number;
    return {};
  }
  auto hosts = parse_hosts(options.hosts);
  if (!hosts.ok()) return Status(hosts.status().code(), "--hosts: " + hosts.status().message());
  options.run.hosts = std::move(hosts).value();
  topology.hosts = options.run.hosts.size();
  for (const Host& host : options.run.hosts)
    topology.ranks_per_host = std::max(topology.ranks_per_host, static_cast<size_t>(host.slots));
  return {};
}

int print_plan(const PlanOptions& options, const Topology& topology, size_t most) {
  std::string page = plan_page(topology, most);
  if (!options.compression.empty()) {
    const auto chains = compression_plan(options.compression, topology);
    if (!chains.ok()) return wrong("--compression: " + chains.status().message());
    page += "\n" + chains.value();
  }
  fmt::print("{}", page);
  return 0;
}

/// Goes to the hosts and takes the slowest link between them.
int plan_measured(const PlanOptions& options, Topology topology, size_t most) {
  constexpr std::chrono::seconds kStartTimeout{30};
  return visit_hosts(options.run, kStartTimeout, [&](const HostsPage& page) {
    if (!page.ok || !page.slowest) {
      fmt::print("{}", page.text);
      return 1;
    }
    topology.across = *page.slowest;
    fmt::print("the slowest link: {}, {} one way\n", rate_text(topology.across.bandwidth),
               time_text(topology.across.latency));
    return print_plan(options, topology, most);
  });
}

}  // namespace

int plan_main(std::vector<std::string> arguments) {
  CLI::App app("Predict how long an allreduce takes, and which way it goes.", "hora plan");
  PlanOptions options;
  app.add_option("--hosts", options.hosts,
                 "How many hosts; or which, such as a:4,b:4, to measure their links")
      ->capture_default_str();
  app.add_option("--ranks-per-host", options.ranks_per_host, "How many ranks on each (1)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--link", options.link,
                 "A host's rate in each direction, and the one-way delay (10gbit)");
  app.add_option("--most", options.most, "The largest size")->capture_default_str();
  app.add_option("--compression", options.compression,
                 "Such as auto: also say which chains it takes");
  app.add_option("--rsh", options.run.remote_shell, "How to start a program on a host")
      ->capture_default_str();
  if (const auto code = parse_command_line(app, std::move(arguments))) return *code;
  Topology topology{1, 1, kUsualInside, kUsualAcross};
  if (const Status status = count_hosts(options, topology); !status.ok())
    return wrong(status.message());
  if (options.ranks_per_host > 0) topology.ranks_per_host = options.ranks_per_host;
  const auto bytes = parse_bytes(options.most);
  if (!bytes) return wrong(fmt::format("\"{}\" is no number of bytes", options.most));
  if (!options.link.empty()) {
    const auto across = link_of(options.link);
    if (!across.ok()) return wrong(across.status().message());
    topology.across = across.value();
  } else if (options.run.hosts.size() > 1) {
    return plan_measured(options, topology, *bytes);
  }
  return print_plan(options, topology, *bytes);
}

}  // namespace hora
