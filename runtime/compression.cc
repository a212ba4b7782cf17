#include "runtime/compression.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "hora/engine.h"
#include "runtime/compression_settings.h"

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
  fmt::format_to(std::back_inserter(key), "{}\n{}\n{}\n{}", request.chain, request.name,
                 request.set, static_cast<int>(request.inputs[0].dtype));
  for (const int64_t dim : request.inputs[0].shape)
    fmt::format_to(std::back_inserter(key), ",{}", dim);
}

}  // namespace

Result<std::string> canonical_compression(std::string_view setting) {
  auto rules = CompressionRules::parse(setting);
  if (!rules.ok()) return rules.status();
  return rules.value().canonical();
}

std::string Compression::own_speeds(const Config& config, const Now& now) {
  constexpr int64_t kBudget = 10'000'000;
  if (!parsed(config.compression).automatic()) return std::string();
  return text_of(config.codec_speeds == kMeasureSpeeds ? measure_speeds(now, kBudget)
                                                       : parse_speeds(config.codec_speeds).value());
}

Compression::Compression(const Config& config, AutoJob job, std::span<const int> hosts,
                         AutoChoices chosen)
    : seed_(config.seed),
      job_(std::move(job)),
      earlier_(std::move(chosen)),
      hosts_(hosts.begin(), hosts.end()),
      one_host_(hosts_in(hosts) == 1),
      has_layers_(config.hierarchical != 0 || hosts_in(hosts) == hosts.size()),
      rules_(parsed(config.compression)),
      always_none_(rules_.canonical() == ChainConfig().canonical()),
      choices_(earlier_),
      sets_{{0, {job_.topology.hosts, job_.topology.ranks_per_host}}} {}

void Compression::know_set(SetId set, std::span<const Rank> members) {
  std::vector<int> hosts;
  for (const Rank rank : members) hosts.push_back(hosts_[static_cast<size_t>(rank)]);
  const size_t count = hosts_in(hosts);
  const std::lock_guard lock(mutex_);
  sets_[set] = {count, (members.size() + count - 1) / count};
}

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
  const ChainConfig* chain = &rules.for_tensor(request.name, tensor.shape, tensor.dtype);
  std::shared_ptr<const AutoChain> chooser;
  if (const auto error = chain->automatic()) {
    chooser = automatic(request.set);
    if (!chooser)
      return Status(Code::kInvalidArgument,
                    fmt::format("'{}': this rank is not a member of process set {}", request.name,
                                request.set));
    chain = &chooser->chain(choose_automatic(*chooser, request, *error));
  }
  if (chain->none() || (chain->between_hosts() && one_host_)) return {};
  if (chain->between_hosts() && !has_layers_) {
    return Status(Code::kInvalidArgument,
                  fmt::format("'{}': link=inter adds up inside each host first, which "
                              "HORA_HIERARCHICAL=0 forbids, and hosts have several ranks: set it "
                              "to 1, or leave link= out",
                              request.name));
  }
  const Extent extent = extent_of(request.name, tensor.shape);
  auto codec = chain->codec(extent);
  if (!codec.ok()) return codec.status();
  std::unique_ptr<Codec> down;
  if (chain->down()) {
    auto made = chain->down()->codec(extent);
    if (!made.ok()) return made.status();
    down = std::move(made).value();
  }
  choice.canonical = chain->canonical();
  choice.granule = static_cast<uint32_t>(granule_of(*codec.value(), down.get()));
  return {};
}

std::string Compression::decisions() {
  const auto error = rules_.automatic();
  if (!error) return {};
  std::string table = automatic(0)->table(*error);
  table.pop_back();  // a log has line ends of its own
  if (!earlier_.empty()) table += "\nchosen before, and kept within 20 %: " + earlier_.text();
  return table;
}

size_t Compression::choose_automatic(const AutoChain& chooser, const Request& request,
                                     double error) {
  const Tensor& tensor = request.inputs[0];
  const AutoChoices::Case which{request.set, error, static_cast<uint32_t>(bytes_of(tensor.dtype)),
                                tensor.count()};
  const size_t chain = chooser.choose(tensor.count(), tensor.dtype, error, earlier_.find(which));
  const std::lock_guard lock(mutex_);
  choices_.note(which, chain);
  return chain;
}

AutoChoices Compression::choices() const {
  const std::lock_guard lock(mutex_);
  return choices_;
}

/// Made without the lock, by whoever comes first. Null if there is no such set.
std::shared_ptr<const AutoChain> Compression::automatic(SetId set) {
  AutoJob job = job_;
  {
    const std::lock_guard lock(mutex_);
    const auto known = sets_.find(set);
    if (known == sets_.end()) return nullptr;
    if (const auto made = automatic_.find(known->second); made != automatic_.end())
      return made->second;
    std::tie(job.topology.hosts, job.topology.ranks_per_host) = known->second;
  }
  const std::pair shape(job.topology.hosts, job.topology.ranks_per_host);
  auto made = std::make_shared<const AutoChain>(std::move(job));
  const std::lock_guard lock(mutex_);
  return automatic_.try_emplace(shape, std::move(made)).first->second;
}

uint64_t Exchanges::plan(bool last) {
  const uint64_t exchange = planned_;
  slices_.resize(std::max<size_t>(slices_.size(), exchange - ended_ + 1));
  ++slices_[exchange - ended_];
  if (last) ++planned_;
  return exchange;
}

bool Exchanges::end(uint64_t exchange) {
  --slices_[exchange - ended_];
  bool is_over = false;
  while (ended_ < planned_ && slices_[0] == 0) {
    is_over |= ended_++ == exchange;
    slices_.erase(slices_.begin());
  }
  return is_over;
}

bool BoundChain::is_turn_of(uint64_t exchange) {
  if (earlier && earlier->exchanges.idle()) earlier.reset();
  return !earlier && exchanges.is_turn_of(exchange);
}

BoundChain* Compression::bind(SetId set, std::string_view name, const Signature& signature,
                              int ranks, int hosts) {
  auto found = bound_.find(std::pair(set, name));
  if (found == bound_.end())
    found = bound_.try_emplace({set, std::string(name)}, std::make_unique<BoundChain>()).first;
  const BoundChain& last = *found->second;
  if (last.codec && last.chain == signature.chain && last.shape == signature.shapes[0] &&
      last.ranks == ranks && last.hosts == hosts)
    return found->second.get();
  if (!last.exchanges.idle()) {
    auto next = std::make_unique<BoundChain>();
    next->earlier = std::exchange(found->second, nullptr);
    found->second = std::move(next);
  }
  BoundChain& bound = *found->second;
  bound.name = name;
  bound.chain = signature.chain;
  bound.shape = signature.shapes[0];
  bound.ranks = ranks;
  bound.hosts = hosts;
  make_codec(bound, 0);
  return &bound;
}

void Compression::begin_exchange(BoundChain& bound, uint64_t step) {
  if (step < bound.from || step >= bound.until) make_codec(bound, step);
}

void Compression::make_codec(BoundChain& bound, uint64_t step) {
  const auto parsed = ChainConfig::parse(bound.chain);
  HORA_CHECK(parsed.ok(), "an agreed chain can't be parsed: " + bound.chain);
  const ChainConfig& config = parsed.value();
  const auto make = [&](const ChainConfig& chain) {
    uint64_t until = 0;
    auto codec = chain.codec(extent_of(bound.name, bound.shape), step, &until);
    HORA_CHECK(codec.ok(), "an agreed chain has no codec: " + bound.chain);
    bound.until = std::min(bound.until, until);
    return std::move(codec).value();
  };
  bound.degrees.assign(config.degrees().begin(), config.degrees().end());
  bound.from = step;
  bound.until = ~uint64_t{0};
  bound.codec = make(config);
  bound.down = config.down() ? make(*config.down()) : nullptr;
  bound.between_hosts = config.between_hosts();
  const int sharers = bound.between_hosts ? bound.hosts : bound.ranks;
  bound.how = bound.between_hosts && bound.hosts == 1 ? Aggregation::kDense
                                                      : config.aggregation(*bound.codec, sharers);
}

}  // namespace hora
