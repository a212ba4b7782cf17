#include "runtime/pending.h"

namespace hora {

uint32_t Pending::find(SetId set, std::string_view name, uint64_t hash) const {
  return by_name_.find(hash, [&](uint32_t index) {
    const Submission& submission = *requests_[index].submission;
    return submission.set == set && submission.name == name;
  });
}

uint32_t Pending::add(const Submission& submission, uint64_t hash, Time now, Time ask_at) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(requests_.size()));
    requests_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Request& request = requests_[index];
  request.submission = &submission, request.hash = hash;
  request.since = now, request.ask_at = ask_at;
  request.handed = request.lingering = request.behind = false;
  request.late.clear();
  request.previous = last_, request.next = kNone;
  (last_ == kNone ? first_ : requests_[last_].next) = index;
  last_ = index;
  by_name_.add(hash, index);
  ++count_;
  return index;
}

void Pending::remove(uint32_t index) {
  unlinger(index);
  Request& request = requests_[index];
  by_name_.remove(request.hash, index);
  (request.previous == kNone ? first_ : requests_[request.previous].next) = request.next;
  (request.next == kNone ? last_ : requests_[request.next].previous) = request.previous;
  request.submission = nullptr;
  free_.push_back(index);
  --count_;
}

void Pending::linger(uint32_t index) {
  requests_[index].lingering = true;
  lingering_.add(NameIndex::hash(requests_[index].submission), index);
}

void Pending::unlinger(uint32_t index) {
  Request& request = requests_[index];
  if (!request.lingering) return;
  request.lingering = false;
  lingering_.remove(NameIndex::hash(request.submission), index);
}

uint32_t Pending::lingering(const Submission* submission) const {
  return lingering_.find(NameIndex::hash(submission),
                         [&](uint32_t index) { return requests_[index].submission == submission; });
}

}  // namespace hora
