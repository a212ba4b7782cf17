#include "compressors/rules.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "compressors/stage.h"
#include "compressors/text.h"

namespace hora {
namespace {

const ChainConfig& no_compression() {
  static const ChainConfig none;
  return none;
}

/// `*` is any run of characters, `?` any one. Backtracks to the last star only: linear in practice.
bool glob_matches(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// What a section has of a chain; empty if it is for something else.
std::string_view chain_in(std::string_view section) {
  const size_t equals = section.find('='), arrow = section.find("->");
  const std::string_view key = section.substr(0, equals);
  if (equals == section.npos || key.find_first_of("+:") != key.npos) return section;
  if (key == "up" || key == "down") return section.substr(equals + 1);
  return key == "rule" && arrow != section.npos ? section.substr(arrow + 2) : std::string_view();
}

bool is_known(std::string_view name) {
  const auto has_it = [&](const auto& entry) { return entry.name == name; };
  return name == "none" || name == "auto" || std::ranges::any_of(stages(), has_it) ||
         std::ranges::any_of(presets(), has_it);
}

/// As hora.compression.register has it.
bool may_be_added(std::string_view name) {
  constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyz",
                             kAny = "abcdefghijklmnopqrstuvwxyz0123456789_";
  return !name.empty() && kFirst.find(name[0]) != kFirst.npos &&
         name.find_first_not_of(kAny) == name.npos;
}

}  // namespace

std::string_view unknown_stage(std::string_view setting) {
  for (const Fragment& section : split({setting, 0}, ';')) {
    for (const Fragment& item : split({chain_in(section.text), 0}, '+')) {
      const std::string_view name = item.text.substr(0, item.text.find(':'));
      if (may_be_added(name) && !is_known(name)) return name;
    }
  }
  return {};
}

bool CompressionRules::Rule::matches(std::string_view name, const Shape& shape) const {
  if (on == On::kGlob) return glob_matches(pattern, name);
  const auto value = static_cast<int64_t>(on == On::kDim ? shape.size() : count_of(shape));
  if (relation == "<") return value < bound;
  if (relation == "<=") return value <= bound;
  if (relation == ">") return value > bound;
  if (relation == ">=") return value >= bound;
  return value == bound;
}

Result<CompressionRules::Rule> CompressionRules::parse_rule(std::string_view text, size_t at) {
  const size_t arrow = text.find("->");
  if (arrow == std::string_view::npos) {
    return text_error(at, "a rule needs '->' and a chain: rule=dim<=1->none");
  }
  Rule rule;
  Result<ChainConfig> chain = ChainConfig::parse_bare({text.substr(arrow + 2), at + arrow + 2});
  if (!chain.ok()) return chain.status();
  rule.chain = std::move(chain).value();
  const std::string_view condition = text.substr(0, arrow);
  if (condition.starts_with("glob")) {
    const size_t skip = condition.size() > 4 && condition[4] == ':' ? 5 : 4;
    rule.pattern = condition.substr(skip);
    if (rule.pattern.empty()) return text_error(at + 4, "the pattern of 'glob' is missing");
    return rule;
  }
  const size_t sign = std::min(condition.find_first_of("<>="), condition.size());
  const std::string_view subject = condition.substr(0, sign);
  if (subject != "dim" && subject != "size" && subject != "numel") {
    return text_error(at, fmt::format("no condition '{}'{}", subject,
                                      did_you_mean(subject, {"dim", "size", "numel", "glob"})));
  }
  rule.on = subject == "dim" ? Rule::On::kDim : Rule::On::kSize;
  const size_t width = condition.substr(sign).find_first_not_of("<>=");
  rule.relation = condition.substr(sign, width);
  if (rule.relation != "<" && rule.relation != "<=" && rule.relation != ">" &&
      rule.relation != ">=" && rule.relation != "=") {
    return text_error(at + sign, fmt::format("'{}' needs <, <=, >, >= or = and a number", subject));
  }
  const std::string number = normal_value(condition.substr(sign + rule.relation.size()));
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), rule.bound);
  if (error != std::errc() || end != number.data() + number.size()) {
    return text_error(at + sign + rule.relation.size(),
                      fmt::format("'{}' is not a whole number", number));
  }
  return rule;
}

const ChainConfig& CompressionRules::for_tensor(std::string_view name, const Shape& shape,
                                                DType dtype) const {
  if (!is_float(dtype) || dtype == DType::kFloat64) return no_compression();
  for (const Rule& rule : rules_) {
    if (rule.matches(name, shape)) return rule.chain;
  }
  return chain_;
}

std::optional<double> CompressionRules::automatic() const {
  std::optional<double> bound = chain_.automatic();
  for (const Rule& rule : rules_)
    if (!bound) bound = rule.chain.automatic();
  return bound;
}

std::string CompressionRules::canonical() const {
  std::string text = chain_.canonical();
  for (const Rule& rule : rules_) {
    const std::string condition =
        rule.on == Rule::On::kGlob
            ? "glob:" + rule.pattern
            : fmt::format("{}{}{}", rule.on == Rule::On::kDim ? "dim" : "size", rule.relation,
                          rule.bound);
    text += fmt::format(";rule={}->{}", condition, rule.chain.chain_text());
  }
  return text;
}

Result<CompressionRules> CompressionRules::parse(std::string_view text) {
  CompressionRules rules;
  std::vector<Fragment> others;
  for (const Fragment& section : split({text, 0}, ';')) {
    if (!section.text.starts_with("rule=")) {
      others.push_back(section);
      continue;
    }
    Result<Rule> rule = parse_rule(section.text.substr(5), section.at + 5);
    if (!rule.ok()) return rule.status();
    rules.rules_.push_back(std::move(rule).value());
  }
  Result<ChainConfig> chain = ChainConfig::parse_sections(others);
  if (!chain.ok()) return chain.status();
  rules.chain_ = std::move(chain).value();
  for (Rule& rule : rules.rules_) {
    if (rule.chain.automatic() && rules.chain_.between_hosts())
      return text_error(0, "'auto' is for all links; leave link=inter out, or the rule");
    rule.chain.share_link(rules.chain_);
  }
  return rules;
}

Result<CompressionRules> parse_rules(std::string_view text) {
  return CompressionRules::parse(text);
}

}  // namespace hora
