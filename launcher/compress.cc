#include "launcher/compress.h"

#include <fstream>
#include <iterator>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compressors/merging.h"
#include "compressors/reference.h"
#include "compressors/rules.h"
#include "launcher/command_line.h"

namespace hora {
namespace {

/// What one tensor costs.
struct Cost {
  std::string chain = "none", how = "dense", promises = "exact";
  double sent = 0;    ///< bytes that a rank sends in a step
  double memory = 0;  ///< bytes of state on a rank, an owner's included
};

/// Bytes that travel through each rank when `bytes` are reduced and spread again.
double there_and_back(double bytes, int ranks) {
  return 2 * bytes * (ranks - 1) / ranks;
}

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

Result<Cost> cost_of(const CompressionRules& rules, const std::string& name, const Shape& shape,
                     int ranks) {
  const ChainConfig& chain = rules.for_tensor(name, shape, DType::kFloat32);
  const auto count = static_cast<size_t>(count_of(shape));
  Cost cost;
  cost.sent = there_and_back(4.0 * static_cast<double>(count), ranks);
  if (chain.none()) return cost;
  auto codec = chain.codec(extent_of(name, shape), ~uint64_t{0});  // after any warm-up
  if (!codec.ok()) return codec.status();
  const Traits traits = codec.value()->traits();
  const Aggregation how = chain.aggregation(*codec.value(), ranks);
  cost.chain = chain.chain_text();
  cost.how = name_of(how);
  cost.promises = promises_of(traits);
  for (const SlabSpec& slab : codec.value()->slabs(count))
    cost.memory += static_cast<double>(slab.bytes());
  const auto payload = static_cast<double>(codec.value()->payload_bytes(count));
  cost.sent = how == Aggregation::kGather ? payload * (ranks - 1) : there_and_back(payload, ranks);
  if (how == Aggregation::kLinear) {
    cost.sent = 0;
    for (int round = 0; round < codec.value()->rounds(); ++round)
      cost.sent += there_and_back(
          static_cast<double>(codec.value()->round_bytes(round, count, ranks)), ranks);
  }
  if (how == Aggregation::kMerge)
    cost.sent = static_cast<double>(Merging(*codec.value(), count, ranks, chain.degrees()).bytes());
  if (how == Aggregation::kRecode) cost.memory += cost.memory / ranks;
  return cost;
}

std::string ratio_of(double dense, double sent) {
  return sent > 0 ? fmt::format("{:.1f}", dense / sent) : "-";
}

}  // namespace

Result<std::string> compression_page(std::string_view setting, const std::string& model,
                                     int ranks) {
  auto rules = CompressionRules::parse(setting);
  if (!rules.ok()) return rules.status();
  const auto shapes = nlohmann::ordered_json::parse(model, nullptr, false);
  const auto no_model = [](const std::string& why) {
    return Status(Code::kInvalidArgument,
                  "the model is no JSON object of shapes such as {\"w\": [256, 128]}: " + why);
  };
  if (!shapes.is_object()) return no_model("it is no object");
  std::string page = fmt::format("{}\n{} ranks\n\n", rules.value().canonical(), ranks);
  page += fmt::format("{:<28} {:>11} {:>12} {:>7} {:>9}  {:<7} {}\n", "tensor", "elements",
                      "sent/step", "ratio", "bytes/el", "how", "chain; promises");
  double dense = 0, sent = 0, memory = 0, elements = 0;
  for (const auto& [name, dims] : shapes.items()) {
    Shape shape;
    for (const auto& dim : dims) {
      if (!dim.is_number_unsigned()) return no_model(name);
      shape.push_back(dim.get<int64_t>());
    }
    auto cost = cost_of(rules.value(), name, shape, ranks);
    if (!cost.ok()) return cost.status();
    const auto count = static_cast<double>(count_of(shape));
    const double plain = there_and_back(4 * count, ranks);
    page += fmt::format("{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f}  {:<7} {}; {}\n", name, count,
                        cost.value().sent, ratio_of(plain, cost.value().sent),
                        count > 0 ? cost.value().memory / count : 0, cost.value().how,
                        cost.value().chain, cost.value().promises);
    dense += plain, sent += cost.value().sent, memory += cost.value().memory, elements += count;
  }
  page += fmt::format("{:<28} {:>11.0f} {:>12.0f} {:>7} {:>9.2f}\n", "all", elements, sent,
                      ratio_of(dense, sent), elements > 0 ? memory / elements : 0);
  return page +
         fmt::format(
             "\nsent/step: bytes a rank sends. ratio: float32 allreduce over that; a gathered"
             "\npayload goes to each of the other {} ranks. bytes/el: memory on the host for "
             "each\nelement; on a device none yet.\n",
             ranks - 1);
}

int compress_main(std::vector<std::string> arguments) {
  CLI::App app("Compression settings: what there is, and what one does to a model.",
               "hora compress");
  app.require_subcommand(1);
  bool markdown = false;
  std::string setting, model;
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
  const auto page = compression_page(setting, text, ranks);
  if (!page.ok()) {
    fmt::print(stderr, "hora compress: {}\n", page.status().message());
    return 2;
  }
  fmt::print("{}", page.value());
  return 0;
}

}  // namespace hora
