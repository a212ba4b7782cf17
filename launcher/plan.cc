#include "launcher/plan.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/command_line.h"
#include "runtime/quantity.h"

namespace hora {
namespace {

std::string time_of(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  return seconds < 1 ? fmt::format("{:.1f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

std::optional<double> parse_rate(const std::string& text) {
  static constexpr std::pair<const char*, double> kUnits[] = {
      {"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}};
  for (const auto& [unit, factor] : kUnits) {
    if (!text.ends_with(unit)) continue;
    const std::string digits = text.substr(0, text.size() - std::string_view(unit).size());
    char* end = nullptr;
    const double number = std::strtod(digits.c_str(), &end);
    if (digits.empty() || *end != 0 || !(number > 0) || number > 1e6) return {};
    return number * factor / 8;
  }
  return {};
}

}  // namespace

Result<LinkCost> parse_link(const std::string& text) {
  const size_t comma = std::min(text.find(','), text.size());
  const auto rate = parse_rate(text.substr(0, comma));
  const auto delay = comma < text.size() ? parse_seconds(text.substr(comma + 1)) : 0.0;
  if (!rate || !delay)
    return Status(Code::kInvalidArgument,
                  fmt::format("\"{}\" is no link: give its rate and one-way delay, as in 1gbit, "
                              "10gbit,50us or 100mbit,20ms",
                              text));
  return LinkCost{kUsualAcross.latency + *delay, kUsualAcross.overhead, *rate};
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
    page += fmt::format("{:>10}  {:>10}  {:>12}  {:<12}  {}\n", bytes,
                        time_of(predict(topology, first, bytes).seconds),
                        both ? time_of(predict(topology, Route::kHierarchical, bytes).seconds) : "",
                        name_of(best.route), reason(topology, bytes));
  }
  return page;
}

int plan_main(std::vector<std::string> arguments) {
  CLI::App app("Predict how long an allreduce takes, and which way it goes.", "hora plan");
  Topology topology;
  std::string link = "10gbit", most = "64 MiB";
  app.add_option("--hosts", topology.hosts, "How many hosts")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--ranks-per-host", topology.ranks_per_host, "How many ranks on each")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--link", link, "A host's rate in each direction, and the one-way delay")
      ->capture_default_str();
  app.add_option("--most", most, "The largest size")->capture_default_str();
  if (const auto code = parse_command_line(app, std::move(arguments))) return *code;
  const auto across = parse_link(link);
  const auto bytes = parse_bytes(most);
  if (!across.ok() || !bytes) {
    fmt::print(stderr, "hora plan: {}\n",
               across.ok() ? fmt::format("\"{}\" is no number of bytes", most)
                           : across.status().message());
    return 2;
  }
  topology.inside = kUsualInside;
  topology.across = across.value();
  fmt::print("{}", plan_page(topology, *bytes));
  return 0;
}

}  // namespace hora
