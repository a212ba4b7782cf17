// What the driver tells people about waits: who is late, and what a late rank is doing.

#include <algorithm>

#include "runtime/driver.h"

namespace hora {

void say_stall(const Log& log, const Stall& stall) {
  std::string text = fmt::format("'{}' has waited {:.0f} s for {} rank{}:", stall.name,
                                 stall.seconds, stall.missing, stall.missing == 1 ? "" : "s");
  for (size_t i = 0; i < stall.ranks.size(); ++i) {
    text += fmt::format("\n  rank {} has not submitted it", stall.ranks[i]);
    if (i < stall.details.size() && !stall.details[i].empty()) text += "; " + stall.details[i];
  }
  if (stall.missing > stall.ranks.size())
    text += fmt::format("\n  and {} more", stall.missing - stall.ranks.size());
  log.warning("{}", text);
}

void Driver::report(const Outputs::Stall& told) {
  Stall stall;
  stall.set = told.set;
  stall.name = told.name;
  stall.seconds = static_cast<double>(told.waiting) * 1e-9;
  stall.missing = told.missing;
  stall.ranks = told.ranks;
  stall.details.resize(told.ranks.size());
  for (const Detail& detail : told.details)
    for (size_t i = 0; i < stall.ranks.size(); ++i)
      if (stall.ranks[i] == detail.rank) stall.details[i] = detail.text;
  keep_flight_record(fmt::format("'{}' waits for other ranks", stall.name), {});
  std::function<void(const Stall&)> listener;
  {
    const std::lock_guard lock(shared_);
    listener = stall_;
  }
  listener ? listener(stall) : say_stall(log_, stall);
}

void Driver::answer(const Outputs::Ask& ask) {
  std::string text = last_name_.empty()
                         ? "it has submitted nothing yet"
                         : fmt::format("its last was '{}', {:.1f} s ago", last_name_,
                                       static_cast<double>(clock_.now() - last_submit_) * 1e-9);
  where_ = whereabouts();
  keep_flight_record(fmt::format("other ranks wait for this one in '{}'", ask.name), where_);
  if (!where_.empty()) text += "; it is at:\n" + where_;
  constexpr size_t kLongest = 4000;
  if (text.size() > kLongest) text.resize(kLongest);
  inputs_.answers.push_back({ask.query, std::move(text)});
  dirty_ = true;
}

std::string Driver::whereabouts() const {
  std::function<std::string()> describe;
  {
    const std::lock_guard lock(shared_);
    describe = whereabouts_;
  }
  return describe ? describe() : std::string();
}

void Driver::note(std::string text) {
  const std::lock_guard lock(shared_);
  note_ = std::move(text);
}

Status Driver::dump_flight_record(const std::string& directory, std::string_view reason,
                                  std::string_view where) {
  std::string note;
  {
    const std::lock_guard lock(shared_);
    note = note_;
  }
  const FlightRecorder::Circumstances circumstances{
      world(),
      config_.job,
      reason,
      where,
      note,
      health(),
      clock_.now(),
      [this](SetId set) { return negotiator_->members(set); },
      [this](const Submission& submission) { return negotiator_->lingers(submission); }};
  return FlightRecorder::save(directory, world().rank,
                              observer.flight.json(circumstances, operations));
}

void Driver::keep_flight_record(std::string_view reason, std::string_view where) {
  if (config_.flight_dir.empty()) return;
  if (const Status saved = dump_flight_record(config_.flight_dir, reason, where); !saved.ok())
    log_.warning("{}", saved.message());
}

}  // namespace hora
