#include "compressors/stage.h"

#include <array>
#include <atomic>
#include <charconv>
#include <cmath>
#include <mutex>

#include <fmt/format.h>

namespace hora {
namespace {

/// Grows while others read it, so its elements never move and its size is known last.
struct StageTable {
  static constexpr size_t kMost = 256;
  std::array<Stage, kMost> stages;
  std::atomic<size_t> count = 0;
  std::mutex adding;
};

// Function-local so that they exist before the first file registers.
StageTable& stage_table() {
  static StageTable table;
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

Status add_stage(Stage stage) {
  StageTable& table = stage_table();
  const std::lock_guard lock(table.adding);
  const size_t count = table.count.load(std::memory_order_relaxed);
  if (count == StageTable::kMost) {
    return Status(Code::kOutOfMemory,
                  fmt::format("no room for stage '{}': there are {}", stage.name, count));
  }
  table.stages[count] = std::move(stage);
  table.count.store(count + 1, std::memory_order_release);
  return {};
}

RegisterStage::RegisterStage(Stage stage) {
  const Status added = add_stage(std::move(stage));
  HORA_CHECK(added.ok(), added.message());
}
RegisterPreset::RegisterPreset(Preset preset) {
  preset_table().push_back(preset);
}

std::span<const Stage> stages() {
  const StageTable& table = stage_table();
  return {table.stages.data(), table.count.load(std::memory_order_acquire)};
}
std::span<const Preset> presets() {
  return preset_table();
}

}  // namespace hora
