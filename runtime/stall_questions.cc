#include "runtime/stall_questions.h"

#include <algorithm>
#include <utility>

namespace hora {

void StallQuestions::open(uint32_t query, size_t waiting) {
  Question& question = open_[query];
  question.waiting = waiting;
  question.sum.query = query;
}

void StallQuestions::expect_own(uint32_t query, Rank me, Time deadline) {
  const auto it = open_.find(query);
  if (it != open_.end()) it->second.me = me, it->second.deadline = deadline;
}

void StallQuestions::own_text(uint32_t query, std::string text, std::vector<Missing>& complete) {
  const auto it = open_.find(query);
  if (it == open_.end() || it->second.deadline == kNever) return;
  Missing own{query, 1, {it->second.me}, {}};
  if (text.size() > Limits::kTextBytes) text.resize(Limits::kTextBytes);
  if (!text.empty()) own.details.push_back({it->second.me, std::move(text)});
  it->second.deadline = kNever;
  hear(query, 0, own, complete);
}

void StallQuestions::hear(uint32_t query, size_t slot, const Missing& answer,
                          std::vector<Missing>& complete) {
  const auto it = open_.find(query);
  if (it == open_.end() || it->second.heard.has(slot)) return;
  Question& question = it->second;
  question.heard.add(slot);
  Missing& sum = question.sum;
  sum.count += answer.count;
  sum.ranks.insert(sum.ranks.end(), answer.ranks.begin(), answer.ranks.end());
  std::sort(sum.ranks.begin(), sum.ranks.end());
  if (sum.ranks.size() > Limits::kNamedRanks) sum.ranks.resize(Limits::kNamedRanks);
  sum.details.insert(sum.details.end(), answer.details.begin(), answer.details.end());
  std::erase_if(sum.details, [&](const Detail& detail) {
    return !std::binary_search(sum.ranks.begin(), sum.ranks.end(), detail.rank);
  });
  if (--question.waiting > 0) return;
  complete.push_back(std::move(sum));
  open_.erase(it);
}

void StallQuestions::expire(Time now, std::vector<Missing>& complete) {
  for (auto it = open_.begin(); it != open_.end();) {
    const uint32_t query = it->first;
    const bool late = it->second.deadline <= now;
    ++it;
    if (late) own_text(query, {}, complete);
  }
}

Time StallQuestions::next_deadline() const {
  Time next = kNever;
  for (const auto& [query, question] : open_) next = std::min(next, question.deadline);
  return next;
}

}  // namespace hora
