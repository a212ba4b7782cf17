#include "launcher/compress.h"

#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compressors/reference.h"
#include "compressors/rules.h"
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
  double sent = 0;     ///< bytes that a rank sends in a step
  double memory = 0;   ///< bytes of state on a rank, an owner's included
  double seconds = 0;  ///< of its exchange
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
  return list.empty() ? "none" : list;
}

/// Who asks, and for which tensors.
struct Asked {
  const CompressionRules& rules;
  const AutoJob& job;
  const AutoChain& chooser;
  const SpeedOf& speed_of;
};

Result<Cost> cost_of(const Asked& asked, const std::string& name, const Shape& shape) {
  const Topology& topology = asked.job.topology;
  const auto ranks = static_cast<int>(topology.ranks());
  const ChainConfig* chain = &asked.rules.for_tensor(name, shape, DType::kFloat32);
  const auto count = static_cast<size_t>(count_of(shape));
  if (const auto error = chain->automatic())
    chain = &asked.chooser.chain_for(count, DType::kFloat32, *error);
  Cost cost;
  cost.sent = sent_bytes(Aggregation::kDense, nullptr, count, 4, ranks);
  cost.seconds = exchange_cost(topology, Aggregation::kDense, nullptr, {}, count).seconds();
  if (chain->none()) return cost;
  auto codec = chain->codec(extent_of(name, shape), ~uint64_t{0});  // after any warm-up
  if (!codec.ok()) return codec.status();
  const Aggregation how = chain->aggregation(*codec.value(), ranks);
  cost.chain = chain->chain_text();
  cost.how = name_of(how);
  cost.promises = promises_of(codec.value()->traits());
  for (const SlabSpec& slab : codec.value()->slabs(count))
    cost.memory += static_cast<double>(slab.bytes());
  if (how == Aggregation::kRecode) cost.memory += cost.memory / ranks;
  cost.sent = sent_bytes(how, codec.value().get(), count, 4, ranks, chain->degrees());
  cost.seconds = exchange_cost(topology, how, codec.value().get(), asked.speed_of(*chain), count,
                               DType::kFloat32, chain->degrees())
                     .seconds();
  return cost;
}

std::string ratio_of(double dense, double sent) {
  return sent > 0 ? fmt::format("{:.1f}", dense / sent) : "-";
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
  const auto ranks = static_cast<int>(job.topology.ranks());
  std::string page = fmt::format("{}\n{} ranks\n\n", rules.value().canonical(), ranks);
  const AutoChain chooser(job);
  if (const auto error = rules.value().automatic()) page += chooser.table(*error) + "\n";
  page += fmt::format("{:<28} {:>11} {:>12} {:>7} {:>9} {:>9} {:>9}  {:<7} {}\n", "tensor",
                      "elements", "sent/step", "ratio", "bytes/el", "time ms", "plain ms", "how",
                      "chain; promises");
  const Asked asked{rules.value(), job, chooser, speed_of};
  double dense = 0, sent = 0, memory = 0, elements = 0, seconds = 0, plain_seconds = 0;
  for (const auto& [name, dims] : shapes.items()) {
    Shape shape;
    for (const auto& dim : dims) {
      if (!dim.is_number_unsigned()) return no_model(name);
      shape.push_back(dim.get<int64_t>());
    }
    auto cost = cost_of(asked, name, shape);
    if (!cost.ok()) return cost.status();
    const auto whole = static_cast<size_t>(count_of(shape));
    const auto count = static_cast<double>(whole);
    const double plain = sent_bytes(Aggregation::kDense, nullptr, whole, 4, ranks);
    const double plainly =
        exchange_cost(job.topology, Aggregation::kDense, nullptr, {}, whole).seconds();
    page +=
        fmt::format("{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f} {:>9.3f} {:>9.3f}  {:<7} {}; {}\n",
                    name, count, cost.value().sent, ratio_of(plain, cost.value().sent),
                    count > 0 ? cost.value().memory / count : 0, 1e3 * cost.value().seconds,
                    1e3 * plainly, cost.value().how, cost.value().chain, cost.value().promises);
    dense += plain, sent += cost.value().sent, memory += cost.value().memory, elements += count;
    seconds += cost.value().seconds, plain_seconds += plainly;
  }
  page += fmt::format("{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f} {:>9.3f} {:>9.3f}\n", "all",
                      elements, sent, ratio_of(dense, sent), elements > 0 ? memory / elements : 0,
                      1e3 * seconds, 1e3 * plain_seconds);
  return page +
         fmt::format(
             "\nsent/step: bytes a rank sends. ratio: float32 allreduce over that; a gathered"
             "\npayload goes to each of the other {} ranks. bytes/el: memory on the host for "
             "each\nelement; on a device none yet. time, plain: of the tensor's exchange by "
             "itself, and without"
             "\ncompression, by the cost model.\n",
             ranks - 1);
}

namespace {

/// Hosts of one rank, or one host of all.
Result<AutoJob> job_of(const std::string& link, size_t ranks) {
  constexpr int64_t kBudget = 100'000'000;
  AutoJob job{{ranks, 1, kUsualInside, kUsualAcross},
              measure_speeds([clock = SystemClock()] { return clock.now(); }, kBudget)};
  job.carry_bytes = Config().carry_bytes;
  if (link == "none") {
    job.topology = {1, ranks, kUsualInside, kUsualAcross};
    return job;
  }
  auto across = link_of(link);
  if (!across.ok()) return across.status();
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
  int ranks = 4;
  CLI::App* const list = app.add_subcommand("list", "List presets, stages and quantizers");
  list->add_flag("--markdown", markdown, "As the page docs/compressors.md, which is the standard");
  CLI::App* const explained = app.add_subcommand("explain", "Say what a setting does to a model");
  explained->add_option("SETTING", setting, "Such as 'onebit;rule=dim<=1->none'")->required();
  explained->add_option("--model", model, "A JSON file: {\"layer.weight\": [256, 128], ...}")
      ->required();
  explained->add_option("--ranks", ranks, "How many ranks")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
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
  auto job = job_of(link, static_cast<size_t>(ranks));
  if (!job.ok()) {
    fmt::print(stderr, "hora compress: --link: {}\n", job.status().message());
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
