#include "runtime/quantity.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <vector>

#include <fmt/format.h>

namespace hora {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr double kKibi = 1024;
constexpr Unit kByteUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", kKibi},
    {"kb", kKibi},
    {"kib", kKibi},
    {"m", kKibi* kKibi},
    {"mb", kKibi* kKibi},
    {"mib", kKibi* kKibi},
    {"g", kKibi* kKibi* kKibi},
    {"gb", kKibi* kKibi* kKibi},
    {"gib", kKibi* kKibi* kKibi},
    {"t", kKibi* kKibi* kKibi* kKibi},
    {"tb", kKibi* kKibi* kKibi* kKibi},
    {"tib", kKibi* kKibi* kKibi* kKibi},
};
constexpr Unit kTimeUnits[] = {{"", 1},  {"us", 1e-6}, {"ms", 1e-3},
                               {"s", 1}, {"min", 60},  {"h", 3600}};

constexpr Unit kRateUnits[] = {{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<double> parse_with_unit(std::string_view text, std::span<const Unit> units,
                                      bool divide_small) {
  // from_chars would take "inf", "nan" and "-1".
  if (text.empty() || ((text[0] < '0' || text[0] > '9') && text[0] != '.')) return {};
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return {};
  std::string_view unit(rest, static_cast<size_t>(text.data() + text.size() - rest));
  if (!unit.empty() && unit[0] == ' ') {
    unit.remove_prefix(1);
    if (unit.empty()) return {};
  }
  for (const Unit& known : units) {
    if (!equal_ignoring_case(unit, known.name)) continue;
    // Dividing by 1000 rounds once; multiplying by 0.001, itself rounded, would round twice.
    if (divide_small && known.factor < 1) return number / std::round(1 / known.factor);
    return number * known.factor;
  }
  return {};
}

}  // namespace

std::optional<uint64_t> parse_integer(std::string_view text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (text.empty() || error != std::errc() || rest != end) return {};
  return number;
}

std::optional<uint64_t> parse_bytes(std::string_view text) {
  // Whole numbers take the exact path: a double has only 53 bits.
  if (const auto whole = parse_integer(text)) return whole;
  constexpr double kLimit = 0x1p63;
  const auto bytes = parse_with_unit(text, kByteUnits, false);
  if (!bytes || *bytes != std::floor(*bytes) || *bytes >= kLimit) return {};
  return static_cast<uint64_t>(*bytes);
}

std::optional<double> parse_seconds(std::string_view text) {
  const auto seconds = parse_with_unit(text, kTimeUnits, true);
  if (!seconds || !std::isfinite(*seconds)) return {};
  return seconds;
}

std::optional<double> parse_rate(std::string_view text) {
  constexpr double kFastest = 1e15;
  const auto bits = parse_with_unit(text, kRateUnits, false);
  if (!bits || !(*bits > 0) || *bits > kFastest) return {};
  return *bits / 8;
}

std::optional<LinkQuantity> parse_link(std::string_view text) {
  const size_t comma = std::min(text.find(','), text.size());
  const auto rate = parse_rate(text.substr(0, comma));
  const auto delay = comma < text.size() ? parse_seconds(text.substr(comma + 1)) : 0.0;
  if (!rate || !delay) return {};
  return LinkQuantity{*rate, *delay};
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 4> kNames = {"TiB", "GiB", "MiB", "KiB"};
  for (size_t i = 0; i < kNames.size(); ++i) {
    const uint64_t unit = uint64_t{1} << (10 * (kNames.size() - i));
    if (bytes >= unit && bytes % unit == 0) return fmt::format("{} {}", bytes / unit, kNames[i]);
  }
  return fmt::format("{}", bytes);
}

std::string format_seconds(double seconds) {
  if (seconds == 0) return "0";
  for (const auto& [name, per_second] : {std::pair{"s", 1.0}, {"ms", 1e3}, {"us", 1e6}}) {
    const double number = std::round(seconds * per_second);
    if (number >= 1 && number / per_second == seconds)
      return fmt::format("{:.0f} {}", number, name);
  }
  return fmt::format("{} s", seconds);
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string_view best;
  size_t fewest = word.size() / 3 + 1;
  for (const std::string_view other : candidates) {
    // cost[i][j]: edits that turn the first i letters of word into the first j of other.
    std::vector<std::vector<size_t>> cost(word.size() + 1, std::vector<size_t>(other.size() + 1));
    for (size_t i = 0; i <= word.size(); ++i) {
      for (size_t j = 0; j <= other.size(); ++j) {
        if (i == 0 || j == 0) {
          cost[i][j] = i + j;
          continue;
        }
        const bool same = lower(word[i - 1]) == lower(other[j - 1]);
        cost[i][j] =
            std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (same ? 0 : 1)});
        if (i > 1 && j > 1 && word[i - 1] == other[j - 2] && word[i - 2] == other[j - 1])
          cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
    if (cost[word.size()][other.size()] < fewest) {
      fewest = cost[word.size()][other.size()];
      best = other;
    }
  }
  return best;
}

}  // namespace hora
