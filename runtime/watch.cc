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
  std::function<std::string()> describe;
  {
    const std::lock_guard lock(shared_);
    describe = whereabouts_;
  }
  if (describe) text += "; it is at:\n" + describe();
  constexpr size_t kLongest = 4000;
  if (text.size() > kLongest) text.resize(kLongest);
  inputs_.answers.push_back({ask.query, std::move(text)});
  dirty_ = true;
}

}  // namespace hora
