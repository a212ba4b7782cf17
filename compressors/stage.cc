#include "compressors/stage.h"

#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace hora {
namespace {

// Function-local so that they exist before the first file registers; constant once main() runs.
std::vector<Stage>& stage_table() {
  static std::vector<Stage> table;
  return table;
}

std::vector<Preset>& preset_table() {
  static std::vector<Preset> table;
  return table;
}

}  // namespace

std::string_view name_of(Order order) {
  constexpr std::string_view kNames[] = {"prepare", "memory",   "transform",
                                         "select",  "quantize", "index code"};
  return kNames[static_cast<size_t>(order)];
}

double Keys::number(const char* key, double lowest, double highest) {
  const std::string_view value = text(key);
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size()) {
    refuse(fmt::format("{}={} is not a number", key, value));
    return lowest;
  }
  if (!(number >= lowest && number <= highest)) {
    refuse(fmt::format("{}={} must lie between {:g} and {:g}", key, value, lowest, highest));
    return lowest;
  }
  return number;
}

size_t Keys::count(const char* key, size_t lowest, size_t highest) {
  const double value = number(key, static_cast<double>(lowest), static_cast<double>(highest));
  if (value != std::floor(value))
    refuse(fmt::format("{}={} must be a whole number", key, text(key)));
  return static_cast<size_t>(value);
}

std::string_view Keys::choice(const char* key, std::initializer_list<std::string_view> allowed) {
  const std::string_view value = text(key);
  for (const std::string_view one : allowed) {
    if (one == value) return value;
  }
  std::string list;
  for (const std::string_view one : allowed) list += (list.empty() ? "" : ", ") + std::string(one);
  refuse(fmt::format("{}={} must be one of: {}", key, value, list));
  return *allowed.begin();
}

void Keys::refuse(std::string why) {
  if (refused_.empty()) refused_ = std::move(why);
}

RegisterStage::RegisterStage(Stage stage) {
  stage_table().push_back(std::move(stage));
}
RegisterPreset::RegisterPreset(Preset preset) {
  preset_table().push_back(preset);
}

std::span<const Stage> stages() {
  return stage_table();
}
std::span<const Preset> presets() {
  return preset_table();
}

}  // namespace hora
