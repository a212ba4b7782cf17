#include "runtime/compression.h"

#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "hora/engine.h"

namespace hora {
namespace {

CompressionRules parsed(std::string_view setting) {
  auto rules = CompressionRules::parse(setting);
  HORA_CHECK(rules.ok(), rules.status().message());
  return std::move(rules).value();
}

/// Everything that the choice depends on.
void make_key(const Request& request, std::string& key) {
  key.clear();
  fmt::format_to(std::back_inserter(key), "{}\n{}\n{}", request.chain, request.name,
                 static_cast<int>(request.inputs[0].dtype));
  for (const int64_t dim : request.inputs[0].shape)
    fmt::format_to(std::back_inserter(key), ",{}", dim);
}

}  // namespace

Result<std::string> canonical_compression(std::string_view setting) {
  auto rules = CompressionRules::parse(setting);
  if (!rules.ok()) return rules.status();
  return rules.value().canonical();
}

Status Compression::check(std::string_view setting) {
  const auto rules = CompressionRules::parse(setting);
  if (rules.ok()) return {};
  return Status(Code::kInvalidArgument, "HORA_COMPRESSION: " + rules.status().message());
}

Compression::Compression(const Config& config)
    : seed_(config.seed),
      rules_(parsed(config.compression)),
      always_none_(rules_.canonical() == ChainConfig().canonical()) {}

Status Compression::choose(const Request& request, Signature& signature) {
  if (request.op != Op::kAllreduce || request.inputs.size() != 1) {
    if (request.chain.empty() || request.chain == "none") return {};
    if (request.op != Op::kAllreduce)
      return Status(Code::kInvalidArgument,
                    fmt::format("'{}': only allreduce takes a compression, not {}", request.name,
                                name_of(request.op)));
  }
  if (request.inputs.size() != 1) return {};  // a group is agreed as a whole and travels as it is
  if (request.chain.empty() ? always_none_ : request.chain == "none") return {};
  if (request.reduce != ReduceOp::kSum && request.reduce != ReduceOp::kAverage) {
    if (request.chain.empty()) return {};
    return Status(Code::kInvalidArgument,
                  fmt::format("'{}': compression works with sum and average, not with {}",
                              request.name, name_of(request.reduce)));
  }
  if (known(request, signature)) return {};
  // Without the lock: making a codec may run other people's code.
  Choice choice;
  if (request.chain.empty()) {
    HORA_TRY(choose_new(request, rules_, choice));
  } else {
    const auto rules = CompressionRules::parse(request.chain);
    if (!rules.ok()) return rules.status();
    HORA_TRY(choose_new(request, rules.value(), choice));
  }
  signature.chain = choice.canonical;
  signature.granule = choice.granule;
  const std::lock_guard lock(mutex_);
  make_key(request, key_);
  chosen_.emplace(key_, std::move(choice));
  return {};
}

bool Compression::known(const Request& request, Signature& signature) {
  const std::lock_guard lock(mutex_);
  make_key(request, key_);
  const auto found = chosen_.find(key_);
  if (found == chosen_.end()) return false;
  signature.chain = found->second.canonical;
  signature.granule = found->second.granule;
  return true;
}

Status Compression::choose_new(const Request& request, const CompressionRules& rules,
                               Choice& choice) {
  const Tensor& tensor = request.inputs[0];
  const ChainConfig& chain = rules.for_tensor(request.name, tensor.shape, tensor.dtype);
  if (chain.none()) return {};
  auto codec = chain.codec(extent_of(request.name, tensor.shape));
  if (!codec.ok()) return codec.status();
  choice.canonical = chain.canonical();
  choice.granule = static_cast<uint32_t>(codec.value()->granule());
  return {};
}

BoundChain* Compression::bind(SetId set, std::string_view name, const Signature& signature,
                              int ranks) {
  auto found = bound_.find(std::pair(set, name));
  if (found == bound_.end()) found = bound_.try_emplace({set, std::string(name)}).first;
  BoundChain& bound = found->second;
  if (bound.codec && bound.chain == signature.chain && bound.shape == signature.shapes[0] &&
      bound.ranks == ranks)
    return &bound;
  bound.name = name;
  bound.chain = signature.chain;
  bound.shape = signature.shapes[0];
  bound.ranks = ranks;
  make_codec(bound, 0);
  return &bound;
}

void Compression::begin_exchange(BoundChain& bound, uint64_t step) {
  if (step < bound.from || step >= bound.until) make_codec(bound, step);
}

void Compression::make_codec(BoundChain& bound, uint64_t step) {
  auto config = ChainConfig::parse(bound.chain);
  HORA_CHECK(config.ok(), "an agreed chain can't be parsed: " + bound.chain);
  auto codec = config.value().codec(extent_of(bound.name, bound.shape), step, &bound.until);
  HORA_CHECK(codec.ok(), "an agreed chain has no codec: " + bound.chain);
  bound.how = config.value().aggregation(*codec.value(), bound.ranks);
  const std::span<const int> degrees = config.value().degrees();
  bound.degrees.assign(degrees.begin(), degrees.end());
  bound.codec = std::move(codec).value();
  bound.from = step;
}

}  // namespace hora
