#include "runtime/sequencer.h"

#include <algorithm>
#include <utility>

#include "runtime/mismatch.h"

namespace hora {
namespace {

using Kind = Entry::Kind;

bool zeros_are_neutral(const Signature& signature) {  // may a rank that joined contribute zeros?
  if (signature.op == Op::kBarrier) return true;
  return signature.op == Op::kAllreduce &&
         (signature.reduce == ReduceOp::kSum || signature.reduce == ReduceOp::kAverage ||
          signature.reduce == ReduceOp::kAdasum);
}

std::string what_of(const Signature& signature) {
  std::string text(name_of(signature.op));
  if (signature.op == Op::kAllreduce || signature.op == Op::kReduceScatter)
    text += " of " + std::string(name_of(signature.reduce));
  return text;
}

std::string quoted(std::string_view name) {
  return "'" + std::string(name) + "'";
}

std::string has_left(Rank rank) {
  return "rank " + std::to_string(rank) + " has shut down";
}

}  // namespace

Sequencer::Sequencer(const Options& options, const PlanCache& cache, Rank me, int world,
                     Append append)
    : options_(options),
      cache_(cache),
      me_(me),
      world_(world),
      append_(std::move(append)),
      bucketer_(options) {
  Set& all = sets_[0];
  for (Rank rank = 0; rank < world; ++rank) all.ranks.push_back(rank);
  all.mine = true;
}

Entry& Sequencer::entry(Kind kind, SetId set) {
  entry_.reset(kind);
  entry_.set = set;
  return entry_;
}

void Sequencer::append() {
  entry_.seq = next_seq_++;
  append_(entry_);
}

void Sequencer::decide(const Up& complete) {
  for (const ItemId id : complete.full) enqueue(id, false);
  for (const ItemId id : complete.partial) enqueue(id, true);
  for (const Carried& carried : complete.carried)
    enqueue(carried.id, carried.partial, carried.values);
  for (const Declare& declare : complete.declares) decide(declare);
  for (const Quiet& quiet : complete.quiet) joined(quiet);
}

Rank Sequencer::left_of(SetId set) const {
  if (left_.empty()) return -1;
  const auto& ranks = sets_.at(set).ranks;
  for (const Rank rank : left_)
    if (std::binary_search(ranks.begin(), ranks.end(), rank)) return rank;
  return -1;
}

const ReadyWork& Sequencer::work_of(ItemId id) {
  const auto [it, fresh] = work_.try_emplace(id);
  if (!fresh) return it->second;
  const auto& item = *cache_.find(id);
  if (!item.is_bucket())
    return it->second = bucketer_.describe(id, item.set, item.signature, item.priority);
  ReadyWork whole{id, item.set, 0, INT16_MIN, 0, 1, 0};
  for (const ItemId tensor : item.tensors) {
    const ReadyWork& each = work_of(tensor);
    whole.count += each.count, whole.bytes_each = each.bytes_each;
    whole.priority = std::max(whole.priority, each.priority);
  }
  return work_[id] = whole;
}

void Sequencer::enqueue(ItemId id, bool partial, std::string_view values) {
  const auto* item = cache_.live(id);
  if (!item) return;  // of a set that was removed by an entry before
  if (item->is_bucket() && partial) {
    for (const ItemId tensor : item->tensors)
      enqueue(tensor, true);  // refused one by one if at all
    return;
  }
  if (partial) {
    if (const Rank left = left_of(item->set); left >= 0)
      return fail(item->set, item->name, Code::kPeerLeft,
                  quoted(item->name) + ": " + has_left(left));
    if (!zeros_are_neutral(item->signature))
      return fail(item->set, item->name, Code::kJoined,
                  quoted(item->name) +
                      ": a member has joined, and its zeros would not be neutral for " +
                      what_of(item->signature));
  }
  const bool moves_data = item->signature.op != Op::kBarrier && !item->carried;
  if (moves_data || item->is_bucket()) return bucketer_.add(work_of(id));
  Entry& settled = entry(Kind::kRun, item->set);
  settled.slices.push_back({id, 0, 0, 0, true});
  settled.values = values;
  append();
}

void Sequencer::decide(const Declare& declare) {
  if (!sets_.contains(declare.set)) return;
  const Signature& signature = declare.variants[0].signature;
  if (declare.variants.size() > 1) {
    const size_t members = declare.partial ? 0 : sets_.at(declare.set).ranks.size();
    return fail(declare.set, declare.name, Code::kMismatch,
                mismatch_text(declare.name, declare.variants, members));
  }
  if (signature.op == Op::kAddSet) return add_set(declare);
  if (signature.op == Op::kRemoveSet) return remove_set(declare);
  ItemId id = cache_.find(declare.set, declare.name);
  if (!id || cache_.find(id)->signature != signature) id = define(declare);
  enqueue(id, declare.partial, declare.values);
}

ItemId Sequencer::define(const Declare& declare) {
  const ItemId old = cache_.find(declare.set, declare.name);
  if (old && cache_.find(old)->bucket) wants_reset_ = true;  // its bucket holds the old shape
  const size_t most = std::min<size_t>(options_.cache_capacity, PlanCache::kMaxSpan / 4);
  if (cache_.names() >= most || cache_.span() >= 4 * most) wants_reset_ = drop_names_ = true;
  work_.erase(old);
  Entry& define = entry(Kind::kDefine, declare.set);
  define.id = next_id_++, define.name = declare.name, define.priority = declare.priority;
  define.signature = declare.variants[0].signature;
  append();
  return next_id_ - 1;
}

bool Sequencer::refused(const Declare& declare) {
  if (!declare.partial) return false;
  const Rank left = left_of(declare.set);
  if (left >= 0)
    fail(declare.set, declare.name, Code::kPeerLeft, quoted(declare.name) + ": " + has_left(left));
  else
    fail(declare.set, declare.name, Code::kJoined, quoted(declare.name) + ": a rank has joined");
  return true;
}

void Sequencer::add_set(const Declare& declare) {
  if (refused(declare)) return;
  drain();
  Entry& added = entry(Kind::kSetAdded);
  added.name = declare.name, added.number = next_set_;
  for (const int64_t rank : declare.variants[0].signature.shapes[0])
    added.ranks.push_back(static_cast<Rank>(rank));
  const bool mine = std::binary_search(added.ranks.begin(), added.ranks.end(), me_);
  sets_[next_set_++] = {added.ranks, mine};
  append();
}

void Sequencer::remove_set(const Declare& declare) {
  if (refused(declare)) return;
  const auto set = static_cast<SetId>(declare.variants[0].signature.root);
  if (set == 0 || !sets_.contains(set))
    return fail(declare.set, declare.name, Code::kInvalidArgument,
                quoted(declare.name) + ": there is no process set " + std::to_string(set) +
                    (set == 0 ? " that could be removed" : ""));
  drain();
  learner_.forget(set);
  sets_.erase(set);
  Entry& removed = entry(Kind::kSetRemoved);
  removed.name = declare.name, removed.number = set;
  append();
}

void Sequencer::joined(const Quiet& quiet) {
  const auto it = sets_.find(quiet.set);
  if (it == sets_.end()) return;
  const bool all_left = std::all_of(it->second.ranks.begin(), it->second.ranks.end(),
                                    [&](Rank rank) { return left_.contains(rank); });
  if (all_left) return;
  drain();
  Entry& done = entry(Kind::kJoinDone, quiet.set);
  done.ranks = {quiet.last};
  if (const Rank left = left_of(quiet.set); left >= 0)
    done.status = {Code::kPeerLeft, "join: " + has_left(left)};
  append();
}

void Sequencer::leaving(Rank rank) {
  left_.insert(rank);
}

void Sequencer::fail(SetId set, std::string_view name, Code code, std::string text) {
  if (text.size() > Limits::kTextBytes) text.resize(Limits::kTextBytes);
  Entry& failed = entry(Kind::kFail, set);
  failed.name = name, failed.status = {code, std::move(text)};
  append();
}

void Sequencer::run(const Bucket& bucket) {
  const ItemId first = bucket.pieces[0].id;
  const bool stable = cache_.find(first)->is_bucket();
  Entry& plan = entry(Kind::kRun, bucket.set);
  plan.lane = static_cast<uint8_t>(bucket.lane + 1);
  if (stable) {  // its slices are in the cache
    plan.id = first;
  } else {
    for (const BucketPiece& piece : bucket.pieces)
      plan.slices.push_back({piece.id, piece.first, piece.count, 0, piece.last});
  }
  if (sets_.at(bucket.set).mine) {
    const bool express = bucket.lane == 0;
    outstanding_.push_back({next_seq_, express, bucket.bytes});
    bytes_under_way_[express] += bucket.bytes;
  }
  append();
  if (stable) {
    for (const ItemId tensor : cache_.find(first)->tensors) learn(tensor, false);
  } else {
    for (const BucketPiece& piece : bucket.pieces)
      if (piece.last) learn(piece.id, true);
  }
}

void Sequencer::issue() {
  const auto room = [this](SetId set, bool express, uint64_t bytes) {
    if (!sets_.at(set).mine) return true;  // nobody here tells when it has finished: no window
    const uint64_t under_way = bytes_under_way_[express];
    return under_way == 0 || under_way + bytes <= options_.window_bytes;
  };
  while (bucketer_.next(room, bucket_)) run(bucket_);
  if (wants_reset_) reset();
  if (shut_ || static_cast<int>(left_.size()) < world_ || !bucketer_.empty()) return;
  shut_ = true;
  entry(Kind::kShutdown);
  append();
}

// Everything agreed goes out now, whatever the lanes hold: the next entry changes the rules.
void Sequencer::drain() {
  const auto room = [](SetId, bool, uint64_t) { return true; };
  while (bucketer_.next(room, bucket_)) run(bucket_);
}

void Sequencer::reset() {
  drain();
  wants_reset_ = false;
  learner_.reset();
  if (drop_names_) work_.clear(), bucketer_.forget_kinds();
  Entry& again = entry(Kind::kReset);
  again.number = ++generation_, again.id = next_id_;
  again.drop_names = std::exchange(drop_names_, false);
  append();
}

void Sequencer::finished(Seq plan) {
  for (size_t i = 0; i < outstanding_.size(); ++i) {
    if (outstanding_[i].seq != plan) continue;
    bytes_under_way_[outstanding_[i].express] -= outstanding_[i].bytes;
    outstanding_.erase(outstanding_.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}

void Sequencer::learn(ItemId id, bool loose) {
  const auto& item = *cache_.find(id);
  const uint16_t domain = item.signature.domain;
  if (domain == 0) return;
  const auto verdict = learner_.run(item.set, domain, id, loose && item.bucket != 0);
  if (verdict == StepLearner::Verdict::kLearned) make_buckets(item.set, domain);
  if (verdict == StepLearner::Verdict::kUnlearn) wants_reset_ = true;
}

void Sequencer::make_buckets(SetId set, uint16_t domain) {
  std::vector<ReadyWork> order;
  for (const ItemId id : learner_.order(set, domain))
    if (cache_.live(id)) order.push_back(work_of(id));  // otherwise it was defined anew meanwhile
  for (const auto& tensors : Bucketer::stable_buckets(order, options_)) {
    Entry& bucket = entry(Kind::kBucket, set);
    bucket.id = next_id_++;
    for (const ItemId tensor : tensors) bucket.slices.push_back({tensor, 0, 0, 0, true});
    append();
  }
}

void Sequencer::stall(const StallQuery& query) {
  if (!sets_.contains(query.set) || queries_.size() >= Limits::kQuestions) return;
  for (const auto& [number, open] : queries_)
    if (open.set == query.set && open.name == query.name) return;
  queries_[next_query_] = query;
  Entry& ask = entry(Kind::kStallAsk, query.set);
  ask.name = query.name, ask.number = next_query_++;
  append();
}

void Sequencer::missing(const Missing& answer) {
  const auto it = queries_.find(answer.query);
  if (it == queries_.end()) return;
  const StallQuery query = std::move(it->second);
  queries_.erase(it);
  if (!sets_.contains(query.set)) return;
  Entry& report = entry(Kind::kStallReport, query.set);
  report.name = query.name, report.number = answer.count;
  report.ranks = answer.ranks, report.details = answer.details;
  append();
}

}  // namespace hora
