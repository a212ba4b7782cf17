#include "compressors/chain.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "compressors/automatic.h"
#include "compressors/merging.h"
#include "compressors/text.h"

namespace hora {
namespace {

/// Settings are tried on this when they are parsed, so that a bad value is found at once.
constexpr Extent kProbe{.id = 0, .rows = 64, .columns = 1024};

/// The last one of that name.
template <class Table>
auto* lookup(const Table& table, std::string_view name) {
  const auto found = std::find_if(table.rbegin(), table.rend(),
                                  [&](const auto& entry) { return entry.name == name; });
  return found == table.rend() ? nullptr : &*found;
}

template <class Table>
void add_names(const Table& table, std::vector<std::string_view>& names) {
  for (const auto& entry : table) names.push_back(entry.name);
}

/// A preset's chain with the user's keys filled in.
std::string expand(const Preset& preset, const std::map<std::string, std::string>& keys) {
  std::string out;
  std::string_view rest = preset.chain;
  while (true) {
    const size_t open = rest.find('{');
    out += rest.substr(0, open);
    if (open == std::string_view::npos) return out;
    const size_t close = rest.find('}', open);
    const std::string_view slot = rest.substr(open + 1, close - open - 1);
    rest.remove_prefix(close + 1);
    const size_t equals = slot.find('=');
    const auto given = keys.find(std::string(slot.substr(0, equals)));
    out += given == keys.end() ? slot.substr(equals + 1) : std::string_view(given->second);
  }
}

/// Merging may leave more to the memory than gathering does, so there must be one.
bool merging_pays(const Codec& codec, int ranks, std::span<const int> degrees) {
  constexpr size_t kUsual = size_t{1} << 20;  // elements
  const std::vector<SlabSpec> slabs = codec.slabs(1);
  const bool remembers = std::any_of(slabs.begin(), slabs.end(),
                                     [](const SlabSpec& slab) { return slab.name == "residual"; });
  const uint64_t gathered =
      uint64_t{codec.payload_bytes(kUsual)} * static_cast<uint64_t>(ranks - 1);
  return remembers && codec.most_sent(1) > 0 &&
         Merging(codec, kUsual, ranks, degrees).bytes() < gathered;
}

/// A memory of sums is settled by finish(), and a factor alone cannot be decoded.
bool sums_only(const Codec& codec) {
  return codec.rounds() > 1 || (codec.traits().linear && !codec.slabs(1).empty());
}

Order order_of(std::string_view stage) {
  return lookup(stages(), stage)->order;
}

std::vector<std::string_view> preset_keys(const Preset& preset) {
  std::vector<std::string_view> names;
  std::string_view rest = preset.chain;
  for (size_t open; (open = rest.find('{')) != std::string_view::npos;) {
    rest.remove_prefix(open + 1);
    names.push_back(rest.substr(0, rest.find('=')));
  }
  return names;
}

/// The keys of `item`, which begins with its name. `expanded`: mistakes are the item's own, for
/// what is read here is not what somebody wrote.
Result<std::map<std::string, std::string>> parse_keys(std::string_view name, Fragment item,
                                                      const std::vector<std::string_view>& known,
                                                      bool expanded) {
  std::map<std::string, std::string> keys;
  const size_t colon = item.text.find(':');
  if (colon == std::string_view::npos) return keys;
  for (const Fragment& pair : split({item.text.substr(colon + 1), item.at + colon + 1}, ',')) {
    const size_t where = expanded ? item.at : pair.at, equals = pair.text.find('=');
    const std::string key(pair.text.substr(0, equals));
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return text_error(where,
                        fmt::format("'{}' has no key '{}'{}", name, key, did_you_mean(key, known)));
    }
    const bool bare = equals == std::string_view::npos;
    if (!bare && equals + 1 == pair.text.size()) {
      return text_error(where, fmt::format("the value of '{}' is missing", key));
    }
    std::string value = bare ? "true" : normal_value(pair.text.substr(equals + 1));
    if (!keys.emplace(key, std::move(value)).second) {
      return text_error(where, fmt::format("'{}' is given twice", key));
    }
  }
  return keys;
}

}  // namespace

std::string_view name_of(Aggregation how) {
  constexpr std::string_view kNames[] = {"dense", "linear", "recode", "gather", "merge", "vote"};
  return kNames[static_cast<size_t>(how)];
}

Result<ChainConfig> ChainConfig::parse(std::string_view text) {
  return parse_sections(split({text, 0}, ';'));
}

Result<ChainConfig> ChainConfig::parse_bare(Fragment chain) {
  ChainConfig config;
  HORA_TRY(config.parse_chain(chain.text, chain.at, false));
  config.aggregation_ = "auto";
  HORA_TRY(config.complete());
  return config;
}

std::string_view ChainConfig::chain_text() const {
  return std::string_view(canonical_).substr(0, canonical_.find(';'));
}

Result<ChainConfig> ChainConfig::parse_sections(const std::vector<Fragment>& sections) {
  ChainConfig config;
  bool has_chain = false;
  for (Fragment section : sections) {
    const size_t equals = section.text.find('=');
    const std::string_view key = section.text.substr(0, equals);
    const bool is_chain = equals == std::string_view::npos || key.find_first_of("+:") != key.npos;
    if (!is_chain && key != "up") {
      HORA_TRY(config.parse_section(key, section.text.substr(equals + 1), section.at));
      continue;
    }
    if (!is_chain) section = {section.text.substr(3), section.at + 3};
    if (has_chain) return text_error(section.at, "a second chain; stages are joined by '+'");
    has_chain = true;
    HORA_TRY(config.parse_chain(section.text, section.at, false));
  }
  if (!has_chain) return text_error(0, "the chain is missing; write 'none' for no compression");
  HORA_TRY(config.complete());
  return config;
}

Status ChainConfig::parse_aggregation(std::string_view value, size_t at) {
  static const std::vector<std::string_view> kKnown = {"auto",   "linear", "recode",
                                                       "gather", "merge",  "vote"};
  constexpr std::string_view kDegrees = "degrees=";
  const size_t colon = value.find(':');
  const std::string_view name = value.substr(0, colon);
  if (std::find(kKnown.begin(), kKnown.end(), name) == kKnown.end()) {
    return text_error(at, fmt::format("no aggregation '{}'{}", name, did_you_mean(name, kKnown)));
  }
  aggregation_ = name;
  aggregation_given_ = true;
  degrees_.clear();
  if (colon == std::string_view::npos) return {};
  std::string_view rest = value.substr(colon + 1);
  if (name != "merge" || !rest.starts_with(kDegrees))
    return text_error(at, "only merge has a key: agg=merge:degrees=4x2");
  for (const Fragment& part : split({rest.substr(kDegrees.size()), 0}, 'x')) {
    int degree = 0;
    const char* const end = part.text.data() + part.text.size();
    const auto [last, error] = std::from_chars(part.text.data(), end, degree);
    if (error != std::errc() || last != end || degree < 2 || degree > 1024 ||
        degrees_.size() == Butterfly::kMost) {
      return text_error(
          at, fmt::format("degrees={} must be up to {} numbers from 2 to 1024, such as 4x2",
                          rest.substr(kDegrees.size()), Butterfly::kMost));
    }
    degrees_.push_back(degree);
  }
  return {};
}

Status ChainConfig::parse_section(std::string_view key, std::string_view value, size_t at) {
  if (key == "agg") return parse_aggregation(value, at);
  if (key == "link") {
    if (value != "all" && value != "inter") {
      return text_error(at, fmt::format("link={}: it is all, or inter: only what travels between "
                                        "hosts is compressed",
                                        value));
    }
    between_hosts_ = value == "inter";
    return {};
  }
  if (key == "down") return parse_down({value, at + key.size() + 1});
  if (key == "rule")
    return text_error(at, "a rule cannot stand here, only in a job's whole setting");
  return text_error(at, fmt::format("no section '{}'{}", key,
                                    did_you_mean(key, {"agg", "link", "up", "down", "rule"})));
}

Status ChainConfig::parse_down(Fragment chain) {
  if (down_) return text_error(chain.at, "a second way down");
  Result<ChainConfig> down = parse_bare(chain);
  if (!down.ok()) return down.status();
  if (down.value().automatic())
    return text_error(chain.at, "'auto' cannot stand here: it chooses both ways");
  if (down.value().none())
    return text_error(chain.at, "'none' cannot stand here; 'lossless' brings sums as they are");
  for (const Item& item : down.value().items_) {
    if (order_of(item.name) == Order::kPrepare || item.name == "mc")
      return text_error(item.at,
                        fmt::format("'{}' is for gradients, not for their sums", item.name));
  }
  const std::unique_ptr<Codec> probe = std::move(down.value().codec(kProbe)).value();
  if (sums_only(*probe))
    return text_error(chain.at, "payloads of this chain mean something as sums only");
  down_ = std::make_shared<const ChainConfig>(std::move(down).value());
  down_at_ = chain.at;
  return {};
}

/// Sums are encoded by their owners, which only a recode has.
Status ChainConfig::check_down(const Codec& up) {
  if (!down_) return {};
  if (aggregation_given_ && aggregation_ != "auto" && aggregation_ != "recode")
    return text_error(down_at_, fmt::format("nothing goes down with agg={}", aggregation_));
  if (sums_only(up))
    return text_error(down_at_, "what goes up means something as sums only; leave down= out");
  aggregation_ = "recode";
  return {};
}

Status ChainConfig::parse_chain(std::string_view text, size_t at, bool expanded) {
  if (!expanded && text == "none") return {};
  if (!expanded && text.substr(0, text.find(':')) == "auto" && text.find('+') == text.npos)
    return parse_automatic({text, at});
  for (const Fragment& item : split({text, at}, '+')) {
    HORA_TRY(parse_item(item.text, expanded ? at : item.at, expanded));
  }
  return {};
}

Status ChainConfig::parse_automatic(Fragment text) {
  auto keys = parse_keys("auto", text, {"error"}, false);
  if (!keys.ok()) return keys.status();
  keys.value().emplace("error", kAutomaticError);
  Keys read(keys.value());
  automatic_ = read.number("error", 0, 1);
  if (read.refused().empty()) return {};
  return text_error(text.at, fmt::format("'auto': {}", read.refused()));
}

Status ChainConfig::parse_item(std::string_view text, size_t at, bool expanded) {
  const size_t colon = text.find(':');
  const std::string name(text.substr(0, colon));
  if (name.empty()) return text_error(at, "the name of a stage is missing");
  if (name == "none" || name == "auto")
    return text_error(at, fmt::format("'{}' must stand alone", name));
  const Preset* preset = expanded ? nullptr : lookup(presets(), name);
  const Stage* stage = lookup(stages(), name);
  if (!preset && !stage) {
    std::vector<std::string_view> names{"none", "auto"};
    add_names(stages(), names);
    add_names(presets(), names);
    return text_error(at,
                      fmt::format("no stage or preset '{}'{}", name, did_you_mean(name, names)));
  }
  std::vector<std::string_view> known;
  if (preset)
    known = preset_keys(*preset);
  else
    add_names(stage->keys, known);

  auto parsed = parse_keys(name, {text, at}, known, expanded);
  if (!parsed.ok()) return parsed.status();
  std::map<std::string, std::string>& keys = parsed.value();
  if (preset) {
    HORA_TRY(parse_chain(expand(*preset, keys), at, true));
    if (!aggregation_given_ && std::string_view(preset->sections).starts_with("agg=")) {
      aggregation_ = preset->sections + 4;
    }
    return {};
  }
  for (const StageKey& key : stage->keys) keys.emplace(key.name, normal_value(key.standard));
  return place({name, std::move(keys), at}, expanded);
}

Status ChainConfig::place(Item item, bool expanded) {
  const Order order = order_of(item.name);
  auto where = items_.end();
  while (where != items_.begin() && order_of(std::prev(where)->name) > order) --where;
  const bool taken = where != items_.begin() && order_of(std::prev(where)->name) == order;
  if (taken && expanded && order == Order::kMemory) return {};
  if (taken) {
    return text_error(item.at,
                      fmt::format("'{}' excludes '{}'", item.name, std::prev(where)->name));
  }
  if (where != items_.end() && !expanded) {
    return text_error(item.at,
                      fmt::format("'{}' must come before '{}'", item.name, items_.back().name));
  }
  items_.insert(where, std::move(item));
  return {};
}

Status ChainConfig::complete() {
  write_canonical();
  if (automatic_ && (down_ || between_hosts_))
    return text_error(0, "'auto' is for all links, and chooses the way down, too");
  if (automatic_ && aggregation_ != "auto") {
    return text_error(
        0, fmt::format("'auto' chooses the aggregation, too; leave agg={} out", aggregation_));
  }
  if (items_.empty())
    return down_ ? text_error(down_at_, "down= needs a chain on the way up") : Status();
  const auto probe = [&] { return codec(kProbe); };
  Result<std::unique_ptr<Codec>> tried = probe();
  if (!tried.ok()) return tried.status();
  const Traits bare = tried.value()->traits();
  const bool remembers = std::any_of(items_.begin(), items_.end(), [](const Item& item) {
    return order_of(item.name) == Order::kMemory;
  });
  if (!remembers && !bare.linear && !bare.unbiased) {
    Item memory{"ef", {}, items_.front().at};
    for (const StageKey& key : lookup(stages(), "ef")->keys)
      memory.keys.emplace(key.name, normal_value(key.standard));
    HORA_TRY(place(std::move(memory), true));
    tried = probe();
    if (!tried.ok()) return tried.status();
  }
  HORA_TRY(check_down(*tried.value()));
  HORA_TRY(check_aggregation(*tried.value()));
  write_canonical();
  return {};
}

Status ChainConfig::check_aggregation(const Codec& made) const {
  const Traits traits = made.traits();
  if (aggregation_ == "linear" && !traits.linear) {
    return text_error(0,
                      "agg=linear needs a chain whose payloads can be added; use recode or gather");
  }
  const bool alone = !sums_only(made);
  if ((aggregation_ == "recode" && ((traits.sparse && !down_) || !alone)) ||
      (aggregation_ == "gather" && !alone)) {
    return text_error(0,
                      fmt::format("agg={} does not suit this chain; leave agg= out", aggregation_));
  }
  if (aggregation_ == "merge" && made.most_sent(1) == 0) {
    return text_error(0, "agg=merge needs a chain with a selection such as topk; leave agg= out");
  }
  if (aggregation_ == "vote" && !traits.votes) {
    return text_error(
        0, "agg=vote needs signs of one scale and no memory, as signsgd has; leave agg= out");
  }
  return {};
}

void ChainConfig::write_canonical() {
  canonical_ = none() ? "none" : "";
  if (automatic_) canonical_ = fmt::format("auto:error={:.12g}", *automatic_);
  for (const Item& item : items_) {
    if (!canonical_.empty()) canonical_ += '+';
    canonical_ += item.name;
    char separator = ':';
    for (const auto& [key, value] : item.keys) {
      canonical_ += fmt::format("{}{}={}", separator, key, value);
      separator = ',';
    }
  }
  if (!items_.empty()) canonical_ += ";agg=" + aggregation_;
  for (size_t i = 0; !items_.empty() && i < degrees_.size(); ++i)
    canonical_ += fmt::format("{}{}", i == 0 ? ":degrees=" : "x", degrees_[i]);
  if (down_) canonical_ += fmt::format(";down={}", down_->chain_text());
  if (between_hosts_) canonical_ += ";link=inter";
}

Result<std::unique_ptr<Codec>> ChainConfig::codec(const Extent& extent, uint64_t step,
                                                  uint64_t* until) const {
  HORA_CHECK(!items_.empty(), "a chain of none, and auto, has no codec");
  const auto refuse = [](const Item& item, const std::string& why) {
    return text_error(item.at, fmt::format("'{}': {}", item.name, why));
  };
  const auto makes = [](const Item& item) { return lookup(stages(), item.name)->make != nullptr; };
  const auto outermost = std::find_if(items_.begin(), items_.end(), makes);
  if (outermost == items_.end()) {
    return refuse(items_.front(), "alone compresses nothing; add a stage or write 'none'");
  }
  Memory memory;
  for (const Item& item : items_) {
    const Stage& stage = *lookup(stages(), item.name);
    if (!stage.remember) continue;
    Keys keys(item.keys);
    stage.remember(keys, memory);
    if (!keys.refused().empty()) return refuse(item, keys.refused());
  }
  Binding binding{extent, {}, nullptr, nullptr, step};
  const Item* index = nullptr;  // an index code that no selection has taken yet
  for (auto item = items_.rbegin(); item != items_.rend(); ++item) {
    const Stage& stage = *lookup(stages(), item->name);
    Keys keys(item->keys);
    if (stage.code) {
      binding.code = stage.code(keys);
      index = &*item;
    } else if (stage.make) {
      if (binding.inner && binding.inner->rounds() > 1)
        return refuse(*item,
                      "what follows it takes several rounds, so it must be the last to encode");
      if (&*item == &*outermost) binding.memory = memory;
      binding.inner = stage.make(keys, binding);
      if (stage.order == Order::kSelect) index = nullptr;
    } else if (stage.around) {
      binding.inner = stage.around(keys, std::move(binding.inner));
    }
    if (!keys.refused().empty()) return refuse(*item, keys.refused());
  }
  if (memory.global && !binding.inner->traits().linear)
    return refuse(*outermost, "ef:ref=global needs payloads that are sums, such as lowrank's");
  if (index) return refuse(*index, "needs a selection such as topk to its left");
  HORA_CHECK(binding.inner != nullptr, canonical_);
  if (until) *until = binding.until;
  return std::move(binding.inner);
}

Aggregation ChainConfig::aggregation(const Codec& codec, int ranks) const {
  if (aggregation_ == "linear") return Aggregation::kLinear;
  if (aggregation_ == "recode") return Aggregation::kRecode;
  if (aggregation_ == "gather") return Aggregation::kGather;
  if (aggregation_ == "merge") return Aggregation::kMerge;
  if (aggregation_ == "vote" || codec.traits().votes) return Aggregation::kVote;
  if (codec.traits().linear) return Aggregation::kLinear;
  if (!codec.traits().sparse) return Aggregation::kRecode;
  return merging_pays(codec, ranks, degrees_) ? Aggregation::kMerge : Aggregation::kGather;
}

}  // namespace hora
