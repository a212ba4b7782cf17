#include "compressors/text.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace hora {
namespace {

/// Levenshtein's distance.
size_t edits(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t corner = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t up = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, corner + (a[i - 1] != b[j - 1])});
      corner = up;
    }
  }
  return row.back();
}

}  // namespace

std::vector<Fragment> split(Fragment whole, char separator) {
  std::vector<Fragment> parts;
  while (true) {
    const size_t end = whole.text.find(separator);
    parts.push_back({whole.text.substr(0, end), whole.at});
    if (end == std::string_view::npos) return parts;
    whole = {whole.text.substr(end + 1), whole.at + end + 1};
  }
}

Status text_error(size_t at, std::string_view message) {
  return Status(Code::kInvalidArgument,
                fmt::format("compression, character {}: {}", at + 1, message));
}

std::string did_you_mean(std::string_view wrong, const std::vector<std::string_view>& candidates) {
  std::string_view best;
  size_t fewest = std::max<size_t>(2, wrong.size() / 2) + 1;
  for (const std::string_view candidate : candidates) {
    const size_t count = edits(wrong, candidate);
    if (count < fewest) best = candidate, fewest = count;
  }
  return best.empty() ? std::string() : fmt::format("; did you mean '{}'?", best);
}

std::string normal_value(std::string_view value) {
  double number = 0;
  const char* const stop = value.data() + value.size();
  const auto [end, error] = std::from_chars(value.data(), stop, number);
  if (error != std::errc() || number != number) return std::string(value);
  const std::string_view unit(end, static_cast<size_t>(stop - end));
  if (unit == "%")
    number /= 100;
  else if (unit == "k")
    number *= 1024;
  else if (unit == "M")
    number *= 1 << 20;
  else if (!unit.empty())
    return std::string(value);
  return fmt::format("{:.12g}", number);
}

}  // namespace hora
