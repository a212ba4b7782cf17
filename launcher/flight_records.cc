#include "launcher/flight_records.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launcher/json_fields.h"

namespace hora {
namespace {

using Json = nlohmann::json;

template <class Number>
std::vector<Number> numbers_of(const Json& array) {
  std::vector<Number> numbers;
  if (!array.is_array()) return numbers;
  for (const Json& each : array)
    if (each.is_number_integer()) numbers.push_back(each.get<Number>());
  return numbers;
}

FlightOperation operation_of(const Json& object) {
  FlightOperation operation;
  operation.number = number_in<uint64_t>(object, "number");
  operation.round = number_in<uint64_t>(object, "round");
  operation.name = text_in(object, "name");
  operation.op = text_in(object, "op");
  operation.dtype = text_in(object, "dtype");
  operation.state = text_in(object, "state");
  operation.code = text_in(object, "code");
  operation.error = text_in(object, "error");
  if (object.contains("shape")) operation.shape = numbers_of<int64_t>(object["shape"]);
  operation.tensors = number_in<uint64_t>(object, "tensors");
  operation.set = number_in<uint32_t>(object, "set");
  operation.submitted = number_in<int64_t>(object, "submitted");
  operation.agreed = number_in<int64_t>(object, "agreed");
  operation.ended = number_in<int64_t>(object, "ended");
  return operation;
}

bool is_record(const std::string& file) {
  return file.starts_with("rank") && file.ends_with(".json") &&
         file.find_first_not_of("0123456789", 4) == file.size() - 5;
}

}  // namespace

Result<FlightRecord> parse_flight_record(const std::string& text) {
  const Json object = Json::parse(text, nullptr, false);
  if (!object.is_object() || text_in(object, "format") != "hora-flight")
    return Status(Code::kInvalidArgument, "this is not a flight record of Hora");
  FlightRecord record;
  record.rank = number_in<int>(object, "rank");
  record.size = number_in<int>(object, "size");
  record.epoch = number_in<uint32_t>(object, "epoch");
  if (record.rank < 0 || record.rank >= record.size || record.size > 1 << 20)
    return Status(Code::kInvalidArgument,
                  fmt::format("rank {} of {} is impossible", record.rank, record.size));
  record.job = text_in(object, "job");
  record.host = text_in(object, "host");
  record.reason = text_in(object, "reason");
  record.health = text_in(object, "health");
  record.note = text_in(object, "note");
  record.where = text_in(object, "where");
  record.now = number_in<int64_t>(object, "now");
  record.submitted = number_in<uint64_t>(object, "submitted");
  if (const auto sets = object.find("sets"); sets != object.end() && sets->is_object())
    for (const auto& [key, ranks] : sets->items())
      record.sets[static_cast<uint32_t>(std::strtoul(key.c_str(), nullptr, 10))] =
          numbers_of<int>(ranks);
  if (const auto all = object.find("operations"); all != object.end() && all->is_array())
    for (const Json& each : *all)
      if (each.is_object()) record.operations.push_back(operation_of(each));
  return record;
}

Result<std::vector<FlightRecord>> read_flight_records(const std::string& directory) {
  std::vector<FlightRecord> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!is_record(name)) continue;
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    auto record = parse_flight_record(text.str());
    if (!record.ok())
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: {}", entry.path().string(), record.status().message()));
    records.push_back(std::move(record).value());
    records.back().written =
        std::filesystem::last_write_time(entry.path(), error).time_since_epoch().count();
  }
  if (records.empty())
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: no flight records (rank0.json and so on){}{}; run the job with "
                              "HORA_FLIGHT_DIR, or call hora.dump_flight_record()",
                              directory, error ? ": " : "", error ? error.message() : ""));
  const auto lower = [](const FlightRecord& a, const FlightRecord& b) { return a.rank < b.rank; };
  std::sort(records.begin(), records.end(), lower);
  // What an earlier job has left in the same folder, and ranks that never came into this one.
  const auto latest = std::max_element(
      records.begin(), records.end(), [](const FlightRecord& x, const FlightRecord& y) {
        return std::pair(x.written, x.epoch) < std::pair(y.written, y.epoch);
      });
  const FlightRecord kept = *latest;
  std::erase_if(records, [&](const FlightRecord& each) {
    return each.job != kept.job || each.size != kept.size || each.epoch != kept.epoch;
  });
  return records;
}

}  // namespace hora
