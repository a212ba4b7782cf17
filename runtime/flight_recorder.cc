#include "runtime/flight_recorder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/name_table.h"

namespace hora {
namespace {

/// A JSON string; bytes that are not ASCII stay as they are, control characters are escaped.
std::string json_text(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      result += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      result += c;
  }
  return result + '"';
}

/// An operation in full; `ended` 0: it has not.
std::string json_of(const Operation& operation, std::string_view state, int64_t ended) {
  const Submission& submission = operation.submission;
  const Signature& signature = submission.signature;
  const Flight& flight = operation.flight;
  std::string text = fmt::format(
      R"({{"number":{},"round":{},"name":{},"set":{},"op":"{}","reduce":"{}","dtype":"{}",)"
      R"("tensors":{},"root":{},"chain":{},"state":"{}","submitted":{},"agreed":{},"ended":{})",
      flight.number, flight.round, json_text(submission.name), submission.set,
      name_of(signature.op), name_of(signature.reduce), name_of(signature.dtype),
      signature.shapes.size(), signature.root, json_text(signature.chain), state,
      operation.submitted_at, flight.agreed_at, ended);
  if (!signature.shapes.empty())
    text += fmt::format(R"(,"shape":[{}])", fmt::join(signature.shapes[0], ","));
  if (const Status& status = operation.status; ended > 0 && !status.ok())
    text += fmt::format(R"(,"code":"{}","error":{})", name_of(status.code()),
                        json_text(status.message()));
  return text + '}';
}

}  // namespace

FlightRecorder::FlightRecorder() : ring_(kOperations) {}

void FlightRecorder::taken(Operation& operation) {
  operation.flight = {++numbers_, 0, 0, operation.name ? ++operation.name->rounds : 0};
}

void FlightRecorder::agreed(Operation& operation, Seq plan, int64_t now) {
  if (operation.flight.plan != 0) return;
  operation.flight.plan = plan;
  operation.flight.agreed_at = now;
}

void FlightRecorder::begun(Seq plan, int lane) {
  begun_[static_cast<size_t>(lane)] = plan;
}

void FlightRecorder::done(const Operation& operation, int64_t now) {
  const bool failed = !operation.status.ok();
  ring_[next_++ % kOperations] = {operation.name,
                                  operation.flight,
                                  operation.submitted_at,
                                  now,
                                  operation.submission.signature.dtype,
                                  operation.submission.signature.op,
                                  failed};
  if (!failed) return;
  if (failures_.empty()) failures_.resize(kOperations);
  failures_[next_failure_++ % kOperations] = {operation.flight.number,
                                              json_of(operation, "failed", now)};
}

std::string_view FlightRecorder::state_of(const Operation& operation, bool lingers) const {
  const Seq plan = operation.flight.plan;
  if (plan == 0) return lingers ? "submitted" : "announced";
  return std::find(begun_.begin(), begun_.end(), plan) == begun_.end() ? "agreed" : "moving";
}

std::string FlightRecorder::json(const Circumstances& circumstances,
                                 OperationPool& operations) const {
  std::map<uint64_t, std::string> told;  // by number
  std::map<SetId, const std::vector<Rank>*> sets;
  for (size_t i = 0; i < std::min(next_, kOperations); ++i) {
    const Entry& entry = ring_[i];
    if (entry.failed || !entry.name) continue;
    sets[entry.name->set] = nullptr;
    told[entry.flight.number] = fmt::format(
        R"({{"number":{},"round":{},"name":{},"set":{},"op":"{}","dtype":"{}","state":"done",)"
        R"("submitted":{},"agreed":{},"ended":{}}})",
        entry.flight.number, entry.flight.round, json_text(entry.name->text), entry.name->set,
        name_of(entry.op), name_of(entry.dtype), entry.submitted, entry.flight.agreed_at,
        entry.ended);
  }
  for (size_t i = 0; i < std::min(next_failure_, kOperations); ++i)
    told[failures_[i].number] = failures_[i].json;
  std::map<uint64_t, const Operation*> open;
  for (uint32_t i = 0; i < operations.made(); ++i) {
    const Operation& operation = operations.at(i);
    if (operation.flight.number > 0) open[operation.flight.number] = &operation;
  }
  size_t room = kOperations;
  for (const auto& [number, operation] : open) {
    if (room-- == 0) break;
    const Submission& submission = operation->submission;
    sets[submission.set] = nullptr;
    told[number] = json_of(*operation, state_of(*operation, circumstances.lingers(submission)), 0);
  }

  const World& world = circumstances.world;
  const Member& me = world.members[static_cast<size_t>(world.rank)];
  std::string text =
      fmt::format(R"({{"format":"hora-flight","version":1,"rank":{},"size":{},"job":{},"epoch":{},)"
                  R"("host":{},"pid":{},"reason":{},"note":{},"health":{},"where":{},"now":{},)"
                  R"("submitted":{},"in_flight":{},)",
                  world.rank, world.size(), json_text(circumstances.job), world.epoch,
                  json_text(me.host), me.pid, json_text(circumstances.reason),
                  json_text(circumstances.note), json_text(circumstances.health.message()),
                  json_text(circumstances.where), circumstances.now, numbers_, open.size());
  text += "\"sets\":{";
  for (const char* comma = ""; const auto& [set, none] : sets) {
    const std::vector<Rank>* const ranks = set == 0 ? nullptr : circumstances.members(set);
    if (!ranks) continue;
    text += fmt::format("{}\"{}\":[{}]", std::exchange(comma, ","), set, fmt::join(*ranks, ","));
  }
  text += "},\"operations\":[";
  for (const char* comma = "\n"; const auto& [number, json] : told) {
    text += std::exchange(comma, ",\n");
    text += json;
  }
  return text += "\n]}\n";
}

Status FlightRecorder::save(const std::string& directory, Rank rank, std::string_view json) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const std::string path = fmt::format("{}/rank{}.json", directory, rank), fresh = path + ".new";
  std::ofstream file(fresh, std::ios::trunc);
  file << json;
  file.close();
  if (file.good()) std::filesystem::rename(fresh, path, error);
  if (file.good() && !error) return {};
  return Status(Code::kUnavailable, fmt::format("flight record: cannot write {}{}{}", path,
                                                error ? ": " : "", error ? error.message() : ""));
}

}  // namespace hora
