// How a rank applies the log. All ranks apply the same entries in the same order, and change their
// cache, sets and buckets by nothing else.
#include <algorithm>
#include <functional>
#include <utility>

#include "runtime/carried.h"
#include "runtime/negotiator.h"

namespace hora {

using Kind = Entry::Kind;

void Negotiator::apply(const Entry& entry, std::string_view raw) {
  forward(entry, raw);
  applied_ = entry.seq;
  switch (entry.kind) {
    case Kind::kDefine:
      if (!cache_.acceptable(entry.id)) return violated(at_.parent, "an id out of order");
      if (const ItemId old = cache_.find(entry.set, entry.name))
        gatherer_.forget(old), foresight_.forget(old);
      return cache_.define(entry.id, entry.set, entry.name, entry.signature, entry.priority,
                           is_carried(entry.signature, options_, world_));
    case Kind::kRun:
      return apply_run(entry);
    case Kind::kFail:
      foresight_.forget(cache_.find(entry.set, entry.name));
      return finish_name(entry.set, entry.name, entry.status);
    case Kind::kBucket:
      return apply_bucket(entry);
    case Kind::kReset:
      return apply_reset(entry);
    case Kind::kSetAdded:
      return apply_set_added(entry);
    case Kind::kSetRemoved:
      return apply_set_removed(entry);
    case Kind::kJoinDone:
      return apply_join_done(entry);
    case Kind::kStallAsk:
      return apply_stall_ask(entry);
    case Kind::kStallReport:
      return apply_stall_report(entry);
    case Kind::kShutdown:
      return apply_shutdown();
  }
}

// Entries go to a child only if someone below is a member; entries about the world go to all.
void Negotiator::forward(const Entry& entry, std::string_view raw) {
  if (entry.set == 0 && !raw.empty())
    digest_ = digest_ * 1099511628211u ^ std::hash<std::string_view>()(raw);
  for (size_t child = 0; child < at_.children.size(); ++child) {
    if (entry.set != 0 && !gatherer_.has_members(entry.set, child + 1)) continue;
    std::string& frame = down_[child];
    if (frame.size() >= options_.cut_bytes) {
      end_frame(frame);
      next_send(at_.children[child]).swap(frame);
      frame.clear();
    }
    if (frame.empty()) begin_frame(frame, FrameType::kLog, epoch_);
    frame.append(raw);
  }
}

void Negotiator::apply_run(const Entry& entry) {
  if (!in_set(entry.set)) {
    for (const Slice& slice : entry.slices) foresight_.forget(slice.id);
    return;
  }
  if (entry.lane == 0) return apply_settled(entry);
  if (entry.lane > options_.lanes)
    return violated(at_.parent, "a run on a lane that does not exist");
  Plan& plan = out_->plans.next();
  plan.seq = entry.seq, plan.set = entry.set, plan.lane = static_cast<uint8_t>(entry.lane - 1);
  fill_slices(entry, plan.slices);
  for (const Slice& slice : plan.slices)
    if (!dead_) check_slice(entry, slice);
  if (plan.slices.empty()) violated(at_.parent, "a run of nothing");
  if (dead_) return out_->plans.drop_last();  // nothing was handed over, so nothing is owed
  for (Slice& slice : plan.slices) hand_over(entry, slice);
}

// Nothing is left to execute.
void Negotiator::apply_settled(const Entry& entry) {
  for (const Slice& slice : entry.slices) {
    const auto* item = cache_.live(slice.id);
    if (item && item->carried)
      apply_carried(entry, slice.id, *item);
    else if (item)
      finish_name(entry.set, item->name, {});
  }
}

void Negotiator::apply_carried(const Entry& entry, ItemId id, const PlanCache::Item& item) {
  const uint32_t index = pending_.find(entry.set, item.name, item.hash);
  if (foresight_.caught_up(item.hash, entry.set, item.name)) {
    if (index == Pending::kNone || !pending_[index].behind) return;
    pending_[index].behind = false;
    announce(index);
    return be_quiet();
  }
  foresight_.forget(id);
  if (index == Pending::kNone) {
    if (!leaving_ && !find_set(entry.set)->joined)
      violated(at_.parent, "a run of '" + item.name + "', which this rank did not submit");
    return;
  }
  Outputs::Result& result = out_->results.next();
  result.handle = pending_[index].submission->handle;
  result.seq = entry.seq, result.set = entry.set, result.values = entry.values;
  pending_.remove(index);
}

void Negotiator::fill_slices(const Entry& entry, std::vector<Slice>& slices) {
  slices.assign(entry.slices.begin(), entry.slices.end());
  if (entry.id == 0) return;
  const auto* bucket = cache_.live(entry.id);
  if (!bucket || !bucket->is_bucket()) return violated(at_.parent, "a run of an unknown bucket");
  for (const ItemId tensor : bucket->tensors) {
    const auto* item = cache_.live(tensor);
    if (!item) return violated(at_.parent, "a run of a bucket that holds a dropped operation");
    slices.push_back({tensor, 0, item->count, 0, true});
  }
}

void Negotiator::check_slice(const Entry& entry, const Slice& slice) {
  const auto* item = cache_.live(slice.id);
  if (!item || item->set != entry.set || item->is_bucket() ||
      slice.first + slice.count > item->count)
    return violated(at_.parent, "a run of an unknown operation");
  const uint32_t index = pending_.find(entry.set, item->name, item->hash);
  const char* wrong = nullptr;
  if (index == Pending::kNone) {
    if (!leaving_ && !find_set(entry.set)->joined) wrong = "submit";
  } else if (pending_[index].lingering) {
    wrong = "announce";
  }
  if (wrong)
    violated(at_.parent,
             "a run of '" + item->name + "', which this rank did not " + std::string(wrong));
}

void Negotiator::hand_over(const Entry& entry, Slice& slice) {
  const auto& item = *cache_.live(slice.id);
  const uint32_t index = pending_.find(entry.set, item.name, item.hash);
  if (index == Pending::kNone) return;  // zeros
  Pending::Request& request = pending_[index];
  slice.handle = request.submission->handle;
  request.handed = true;
  if (slice.last) pending_.remove(index);
}

void Negotiator::apply_bucket(const Entry& entry) {
  std::vector<ItemId> tensors;
  for (const Slice& slice : entry.slices) {
    const auto* item = cache_.live(slice.id);
    if (!item || item->set != entry.set || item->is_bucket() || item->bucket)
      return violated(at_.parent, "a bucket of unknown operations");
    tensors.push_back(slice.id);
  }
  if (!cache_.acceptable(entry.id) || tensors.empty())
    return violated(at_.parent, "an impossible bucket");
  cache_.define_bucket(entry.id, entry.set, std::move(tensors));
  gatherer_.bucket_defined(entry.id);
}

// Everything announced and not decided is forgotten at every node and announced again.
// Announcements of the old generation still on their way are recognized by its number and dropped.
void Negotiator::apply_reset(const Entry& entry) {
  if (entry.id < cache_.next_id() || entry.number <= generation_)
    return violated(at_.parent, "a reset that goes backwards");
  generation_ = entry.number;
  gatherer_.clear();
  foresight_.clear();
  up_.clear_announcements();
  filled_.clear();
  for (uint32_t i = pending_.first(); i != Pending::kNone; i = pending_.next(i))
    pending_.unlinger(i);
  cache_.drop_buckets();
  if (entry.drop_names) cache_.drop_all(entry.id);
  for (auto& ended : foresight_.all_ended()) announce_again(ended);
  for (uint32_t i = pending_.first(); i != Pending::kNone; i = pending_.next(i)) {
    Pending::Request& request = pending_[i];
    const Submission& submission = *request.submission;
    request.behind = foresight_.blocks(request.hash, submission.set, submission.name);
    if (!request.handed && !request.behind) announce(i);
  }
  be_quiet();
}

// It has ended here, and the root has forgotten that this rank announced it.
void Negotiator::announce_again(Foresight::Ended& ended) {
  ended.again = true;
  const Declare& declare = ended.declare;
  const ItemId id = cache_.find(declare.set, declare.name, ended.hash);
  const auto* item = cache_.live(id);
  if (item && item->signature == declare.variants[0].signature)
    gatherer_.ready(0, id, false, declare.values);
  else
    gatherer_.declare(0, declare);
}

// A quiet rank never speaks again, so what it still has to announce comes first.
void Negotiator::be_quiet() {
  for (const auto& [id, set] : sets_)
    if (set.mine && !set.removed && (set.joined || leaving_) && !any_behind(id))
      gatherer_.quiet(0, id, at_.me);
}

bool Negotiator::any_behind(SetId set) const {
  if (foresight_.empty()) return false;
  for (uint32_t i = pending_.first(); i != Pending::kNone; i = pending_.next(i))
    if (pending_[i].behind && pending_[i].submission->set == set) return true;
  return false;
}

void Negotiator::apply_set_added(const Entry& entry) {
  if (entry.ranks.empty() || entry.ranks.back() >= world_ || sets_.contains(entry.number))
    return violated(at_.parent, "an impossible process set");
  Set& set = sets_[entry.number];
  set.ranks = entry.ranks;
  set.mine = std::binary_search(set.ranks.begin(), set.ranks.end(), at_.me);
  gatherer_.add_set(entry.number, set.ranks);
  if (leaving_ && set.mine) gatherer_.quiet(0, entry.number, at_.me);
  finish_name(0, entry.name, {}, entry.number);
}

void Negotiator::apply_set_removed(const Entry& entry) {
  Set* set = find_set(entry.number);
  if (!set || entry.number == 0)
    return violated(at_.parent, "a process set removed that is unknown");
  for (uint32_t i = pending_.first(); i != Pending::kNone;) {
    const uint32_t next = pending_.next(i);
    const Submission& submission = *pending_[i].submission;
    if (submission.set == entry.number)
      finish(i, {Code::kSetRemoved, "'" + submission.name + "': process set " +
                                        std::to_string(entry.number) + " was removed"});
    i = next;
  }
  if (set->joined)
    out_->completions.push_back(
        {set->join,
         {Code::kSetRemoved, "join: process set " + std::to_string(entry.number) + " was removed"},
         0});
  set->removed = any_removed_ = true;
  set->joined = false;
  gatherer_.remove_set(entry.number);
  cache_.drop_set(entry.number);
  std::erase_if(filled_, [&](const auto& pair) { return !cache_.live(pair.first); });
  finish_name(0, entry.name, {}, entry.number);
}

void Negotiator::apply_join_done(const Entry& entry) {
  Set* set = find_set(entry.set);
  if (!set) return;  // this rank only passes it on
  gatherer_.join_done(entry.set);
  const Rank last = entry.ranks.empty() ? 0 : entry.ranks[0];
  if (std::exchange(set->joined, false))
    out_->completions.push_back({set->join, entry.status, last});
  if (leaving_ && set->mine) gatherer_.quiet(0, entry.set, at_.me);
}

void Negotiator::apply_stall_ask(const Entry& entry) {
  size_t waiting = 0;
  for (size_t slot = 0; slot <= at_.children.size(); ++slot)
    waiting += gatherer_.has_members(entry.set, slot);
  questions_.open(entry.number, waiting);
  if (!in_set(entry.set)) return;
  const uint64_t hash = NameIndex::hash(entry.set, entry.name);
  const bool submitted = pending_.find(entry.set, entry.name, hash) != Pending::kNone ||
                         foresight_.ahead(hash, entry.set, entry.name);
  if (submitted || find_set(entry.set)->joined || leaving_)
    return questions_.hear(entry.number, 0, {entry.number, 0, {}, {}}, up_.missing);
  questions_.expect_own(entry.number, at_.me, now_ + options_.failure_timeout / 10);
  out_->wake_at = std::min(out_->wake_at, questions_.next_deadline());
  out_->asks.push_back({entry.number, entry.set, entry.name});
}

void Negotiator::apply_stall_report(const Entry& entry) {
  const uint32_t index =
      pending_.find(entry.set, entry.name, NameIndex::hash(entry.set, entry.name));
  if (entry.number == 0 || index == Pending::kNone) return;
  Pending::Request& request = pending_[index];
  request.late = entry.ranks;
  out_->stalls.push_back(
      {entry.set, entry.name, now_ - request.since, entry.number, entry.ranks, entry.details});
}

void Negotiator::apply_shutdown() {
  dead_ = true, dead_status_ = {Code::kShutdown, "all ranks have shut down"};
  finish_all(dead_status_);
  out_->closed = true;
}

void Negotiator::finish(uint32_t index, const Status& status, int64_t value) {
  const Pending::Request& request = pending_[index];
  const Submission& submission = *request.submission;
  if (request.lingering)
    if (const auto* item = cache_.live(cache_.find(submission.set, submission.name, request.hash)))
      --filled_[item->bucket];
  if (!request.handed) out_->completions.push_back({submission.handle, status, value});
  pending_.remove(index);
}

void Negotiator::finish_name(SetId set, std::string_view name, const Status& status,
                             int64_t value) {
  const uint32_t index = pending_.find(set, name, NameIndex::hash(set, name));
  if (index != Pending::kNone) finish(index, status, value);
}

void Negotiator::finish_all(const Status& status) {
  while (pending_.first() != Pending::kNone) finish(pending_.first(), status);
  for (auto& [id, set] : sets_)
    if (std::exchange(set.joined, false)) out_->completions.push_back({set.join, status, 0});
}

}  // namespace hora
