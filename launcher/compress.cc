#include "launcher/compress.h"

#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compressors/reference.h"
#include "compressors/rules.h"
#include "compressors/stripes.h"
#include "hora/config.h"
#include "launcher/command_line.h"
#include "launcher/plan.h"
#include "ops/exchange_cost.h"
#include "runtime/clock.h"

namespace hora {
namespace {

/// What one tensor costs.
struct Cost {
  std::string chain = "none", how = "dense", promises = "exact";
  double sent = 0;     ///< bytes that a rank sends in a step, or with link=inter a host to others
  double plain = 0;    ///< the same of float32 values
  double inside = 0;   ///< with link=inter: bytes that a rank gives to others of its host
  double memory = 0;   ///< bytes of state on a rank, an owner's included
  double seconds = 0;  ///< of its exchange
  double plain_seconds = 0;
};

std::string promises_of(const Traits& traits) {
  std::string list;
  const auto add = [&](bool has, const char* word) {
    if (has) list += fmt::format("{}{}", list.empty() ? "" : ", ", word);
  };
  add(traits.linear, "linear");
  add(traits.unbiased, "unbiased");
  add(traits.contractive, "contracts");
  add(traits.conserves, "keeps what it drops");
  add(traits.sparse, "sparse");
  add(traits.varies, "sent/step at most");
  return list.empty() ? "none" : list;
}

/// Who asks, and for which tensors.
struct Asked {
  const CompressionRules& rules;
  const AutoJob& job;
  const AutoChain& chooser;
  const SpeedOf& speed_of;
};

/// A tensor's codecs, and how their payloads become a sum.
struct Way {
  std::unique_ptr<Codec> up, down;  ///< the latter null: as on the way up
  Aggregation how = Aggregation::kDense;
  std::span<const int> degrees;  ///< of a merge
  const Codec& second() const { return down ? *down : *up; }
};

Result<Way> way_of(const ChainConfig& chain, const Extent& extent, int ranks) {
  constexpr uint64_t kAfterWarmUp = ~uint64_t{0};
  Way way;
  auto up = chain.codec(extent, kAfterWarmUp);
  if (!up.ok()) return up.status();
  way.up = std::move(up).value();
  if (chain.down()) {
    auto down = chain.down()->codec(extent, kAfterWarmUp);
    if (!down.ok()) return down.status();
    way.down = std::move(down).value();
  }
  way.how = chain.aggregation(*way.up, ranks);
  way.degrees = chain.degrees();
  return way;
}

/// Bytes that one of `ranks` sends for `count` elements; one way by each codec.
double sent_by_one(const Way& way, size_t count, int ranks) {
  const double sent = sent_bytes(way.how, way.up.get(), count, 4, ranks, way.degrees);
  return way.down ? (sent + sent_bytes(way.how, way.down.get(), count, 4, ranks)) / 2 : sent;
}

double bytes_of_slabs(const Codec& codec, size_t count) {
  double bytes = 0;
  for (const SlabSpec& slab : codec.slabs(count)) bytes += static_cast<double>(slab.bytes());
  return bytes;
}

double memory_of(const Way& way, size_t count, int ranks) {
  const double mine = bytes_of_slabs(*way.up, count);
  return way.how == Aggregation::kRecode ? mine + bytes_of_slabs(way.second(), count) / ranks
                                         : mine;
}

/// With link=inter hosts are the ranks: what a host sends goes over its one link, and its members
/// share the codec's work; values are added up and spread inside.
double seconds_between_hosts(const Asked& asked, const Way& way, const CodecSpeed& speed,
                             size_t count) {
  Topology topology = asked.job.topology;
  const size_t members = topology.ranks_per_host;
  topology.ranks_per_host = 1;
  const ExchangeCost cost =
      exchange_cost(topology, way.how, way.up.get(), speed, count, DType::kFloat32, way.degrees);
  topology.hosts = 1;
  topology.ranks_per_host = members;
  const double inside = exchange_cost(topology, Aggregation::kDense, nullptr, {}, count).seconds();
  return cost.transfer + cost.codec / static_cast<double>(members) + (members > 1 ? inside : 0);
}

Result<Cost> cost_of(const Asked& asked, const std::string& name, const Shape& shape) {
  const Topology& topology = asked.job.topology;
  const ChainConfig* chain = &asked.rules.for_tensor(name, shape, DType::kFloat32);
  const auto count = static_cast<size_t>(count_of(shape));
  if (const auto error = chain->automatic())
    chain = &asked.chooser.chain(asked.chooser.choose(count, DType::kFloat32, *error));
  const bool inter = chain->between_hosts();
  const auto sharers = static_cast<int>(inter ? topology.hosts : topology.ranks());
  const auto columns = static_cast<int>(inter ? topology.ranks_per_host : 1);
  Cost cost;
  cost.sent = cost.plain = sent_bytes(Aggregation::kDense, nullptr, count, 4, sharers);
  if (inter) cost.inside = sent_bytes(Aggregation::kDense, nullptr, count, 4, columns);
  cost.seconds = cost.plain_seconds =
      exchange_cost(topology, Aggregation::kDense, nullptr, {}, count).seconds();
  if (chain->none() || (inter && sharers == 1)) return cost;
  const Extent extent = extent_of(name, shape);
  auto found = way_of(*chain, extent, sharers);
  if (!found.ok()) return found.status();
  const Way& way = found.value();
  cost.chain = chain->chain_text();
  cost.how = name_of(way.how);
  cost.promises = promises_of(way.up->traits());
  if (way.down) {
    cost.chain += fmt::format("; down={}", chain->down()->chain_text());
    cost.promises += fmt::format("; down: {}", promises_of(way.down->traits()));
  }
  cost.sent = 0;
  const size_t granule = granule_of(*way.up, way.down.get());
  for (int column = 0; column < columns; ++column) {
    const size_t share = shard_of(extent.id, count, granule, columns, column).count;
    if (share == 0) continue;
    cost.sent += sent_by_one(way, share, sharers);
    cost.memory += memory_of(way, share, sharers) / columns;
  }
  const CodecSpeed speed = asked.speed_of(*chain);
  cost.seconds = inter ? seconds_between_hosts(asked, way, speed, count)
                       : exchange_cost(topology, way.how, way.up.get(), speed, count,
                                       DType::kFloat32, way.degrees)
                             .seconds();
  return cost;
}

std::string ratio_of(double dense, double sent) {
  return sent > 0 ? fmt::format("{:.1f}", dense / sent) : "-";
}

std::string legend(size_t ranks) {
  return fmt::format(
      "\nsent/step: bytes a rank sends. ratio: float32 allreduce over that; a gathered"
      "\npayload goes to each of the other {} ranks. bytes/el: memory on the host for "
      "each\nelement; on a device none yet. time, plain: of the tensor's exchange by "
      "itself, and without"
      "\ncompression, by the cost model.\n",
      ranks - 1);
}

std::string links_legend(const Cost& all, const Topology& topology) {
  std::string text;
  if (topology.hosts == 1)
    text = "\nlink=inter compresses nothing on one host; --hosts says how many there are.\n";
  text += fmt::format("\n{:<18} {:>14} {:>14}\n", "bytes/step", "here", "uncompressed");
  text += fmt::format("{:<18} {:>14.0f} {:>14.0f}\n", "inside, by a rank", all.inside, all.inside);
  text += fmt::format("{:<18} {:>14.0f} {:>14.0f}\n", "between, by a host", all.sent, all.plain);
  return text +
         fmt::format(
             "\nsent/step: bytes a host sends to others, the shards of its {} rank{} together;"
             "\ninside it values travel through memory, as they are. ratio: float32 between hosts"
             "\nover that. bytes/el: memory of a rank for each element. time, plain: of the "
             "tensor's"
             "\nexchange by itself, and without compression, by the cost model.\n",
             topology.ranks_per_host, topology.ranks_per_host == 1 ? "" : "s");
}

}  // namespace

Result<std::string> compression_page(std::string_view setting, const std::string& model,
                                     const AutoJob& job, const SpeedOf& speed_of) {
  auto rules = CompressionRules::parse(setting);
  if (!rules.ok()) return rules.status();
  const auto shapes = nlohmann::ordered_json::parse(model, nullptr, false);
  const auto no_model = [](const std::string& why) {
    return Status(Code::kInvalidArgument,
                  "the model is no JSON object of shapes such as {\"w\": [256, 128]}: " + why);
  };
  if (!shapes.is_object()) return no_model("it is no object");
  const Topology& topology = job.topology;
  const bool inter = rules.value().chain().between_hosts();
  std::string page = fmt::format("{}\n{} ranks", rules.value().canonical(), topology.ranks());
  if (inter) page += fmt::format(" on {} host{}", topology.hosts, topology.hosts == 1 ? "" : "s");
  page += "\n\n";
  const AutoChain chooser(job);
  if (const auto error = rules.value().automatic()) page += chooser.table(*error) + "\n";
  page += fmt::format("{:<28} {:>11} {:>12} {:>7} {:>9} {:>9} {:>9}  {:<7} {}\n", "tensor",
                      "elements", "sent/step", "ratio", "bytes/el", "time ms", "plain ms", "how",
                      "chain; promises");
  const Asked asked{rules.value(), job, chooser, speed_of};
  Cost all;
  double elements = 0;
  for (const auto& [name, dims] : shapes.items()) {
    Shape shape;
    for (const auto& dim : dims) {
      if (!dim.is_number_unsigned()) return no_model(name);
      shape.push_back(dim.get<int64_t>());
    }
    auto found = cost_of(asked, name, shape);
    if (!found.ok()) return found.status();
    const Cost& cost = found.value();
    const auto count = static_cast<double>(count_of(shape));
    page += fmt::format(
        "{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f} {:>9.3f} {:>9.3f}  {:<7} {}; {}\n", name, count,
        cost.sent, ratio_of(cost.plain, cost.sent), count > 0 ? cost.memory / count : 0,
        1e3 * cost.seconds, 1e3 * cost.plain_seconds, cost.how, cost.chain, cost.promises);
    all.plain += cost.plain, all.sent += cost.sent, all.inside += cost.inside;
    all.memory += cost.memory, elements += count;
    all.seconds += cost.seconds, all.plain_seconds += cost.plain_seconds;
  }
  page +=
      fmt::format("{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f} {:>9.3f} {:>9.3f}\n", "all", elements,
                  all.sent, ratio_of(all.plain, all.sent), elements > 0 ? all.memory / elements : 0,
                  1e3 * all.seconds, 1e3 * all.plain_seconds);
  return page + (inter ? links_legend(all, topology) : legend(topology.ranks()));
}

namespace {

/// `hosts` of equally many ranks (0: of one rank); or one host of all.
Result<AutoJob> job_of(const std::string& link, size_t ranks, size_t hosts) {
  if (hosts == 0) hosts = ranks;
  if (ranks % hosts != 0)
    return Status(Code::kInvalidArgument,
                  fmt::format("--hosts: {} ranks are not equally many on {} hosts", ranks, hosts));
  constexpr int64_t kBudget = 100'000'000;
  AutoJob job{{hosts, ranks / hosts, kUsualInside, kUsualAcross},
              measure_speeds([clock = SystemClock()] { return clock.now(); }, kBudget)};
  job.carry_bytes = Config().carry_bytes;
  if (link == "none") {
    job.topology = {1, ranks, kUsualInside, kUsualAcross};
    return job;
  }
  auto across = link_of(link);
  if (!across.ok()) return Status(Code::kInvalidArgument, "--link: " + across.status().message());
  job.topology.across = across.value();
  return job;
}

/// Measures each chain once, on this core, on 1 MiB.
SpeedOf measured_speeds() {
  return [known = std::make_shared<std::map<std::string, CodecSpeed>>(),
          clock = SystemClock()](const ChainConfig& chain) {
    const auto found = known->find(chain.canonical());
    if (found != known->end()) return found->second;
    constexpr Extent kTrial{.id = 0, .rows = 512, .columns = 512};
    constexpr int64_t kBudget = 100'000'000;
    const auto codec = chain.codec(kTrial);
    HORA_CHECK(codec.ok(), codec.status().message());
    const auto speed = measure_speed(*codec.value(), [&] { return clock.now(); }, kBudget);
    HORA_CHECK(speed.ok(), speed.status().message());
    return known->emplace(chain.canonical(), speed.value()).first->second;
  };
}

}  // namespace

int compress_main(std::vector<std::string> arguments) {
  CLI::App app("Compression settings: what there is, and what one does to a model.",
               "hora compress");
  app.require_subcommand(1);
  bool markdown = false;
  std::string setting, model, link = "10gbit";
  int ranks = 4, hosts = 0;
  CLI::App* const list = app.add_subcommand("list", "List presets, stages and quantizers");
  list->add_flag("--markdown", markdown, "As the page docs/compressors.md, which is the standard");
  CLI::App* const explained = app.add_subcommand("explain", "Say what a setting does to a model");
  explained->add_option("SETTING", setting, "Such as 'onebit;rule=dim<=1->none'")->required();
  explained->add_option("--model", model, "A JSON file: {\"layer.weight\": [256, 128], ...}")
      ->required();
  explained->add_option("--ranks", ranks, "How many ranks")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  explained->add_option("--hosts", hosts, "On how many hosts; as many as ranks if not said")
      ->check(CLI::Range(1, 1'000'000));
  explained->add_option("--link", link, "Between ranks: rate and one-way delay, or none: one host")
      ->capture_default_str();
  if (const auto code = parse_command_line(app, std::move(arguments))) return *code;
  if (*list) {
    fmt::print("{}", compressors_markdown());
    return 0;
  }
  std::ifstream file(model);
  if (!file) {
    fmt::print(stderr, "hora compress: can't read {}\n", model);
    return 2;
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  auto job = job_of(link, static_cast<size_t>(ranks), static_cast<size_t>(hosts));
  if (!job.ok()) {
    fmt::print(stderr, "hora compress: {}\n", job.status().message());
    return 2;
  }
  const auto page = compression_page(setting, text, job.value(), measured_speeds());
  if (!page.ok()) {
    fmt::print(stderr, "hora compress: {}\n", page.status().message());
    return 2;
  }
  fmt::print("{}", page.value());
  return 0;
}

}  // namespace hora
