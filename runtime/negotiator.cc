#include "runtime/negotiator.h"

#include <algorithm>
#include <utility>

#include "runtime/carried.h"

namespace hora {
namespace {

std::string list_of(const std::vector<Rank>& ranks) {
  std::string text;
  for (const Rank rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

constexpr int kFirstWordShare = 10;  // of the failure timeout, more for who has never spoken

// A set's members are ranks of the world, ascending, each once.
bool are_members(const Signature& signature, int world) {
  if (signature.shapes.size() != 1 || signature.shapes[0].empty()) return false;
  int64_t previous = -1;
  for (const int64_t rank : signature.shapes[0]) {
    if (rank <= previous || rank >= world) return false;
    previous = rank;
  }
  return true;
}

}  // namespace

void Inputs::clear() {
  messages.clear(), lost.clear(), requests.clear(), waits.clear(), flushes.clear(), joins.clear();
  answers.clear(), finished.clear();
  leave = false;
}

void Outputs::clear() {
  sends.clear(), plans.clear(), results.clear(), completions.clear(), stalls.clear(), asks.clear();
  aborted = closed = false;
  wake_at = kNever;
}

Negotiator::Negotiator(const Position& at, int world, uint32_t epoch, const Options& options,
                       Time now)
    : at_(at),
      world_(world),
      epoch_(epoch),
      options_(options),
      gatherer_(at_, cache_),
      neighbors_(at_, now, options.failure_timeout / kFirstWordShare),
      down_(at_.children.size()) {
  Set& all = sets_[0];
  for (Rank rank = 0; rank < world; ++rank) all.ranks.push_back(rank);
  all.mine = true;
  gatherer_.add_set(0, all.ranks);
  if (at_.parent >= 0) return;
  sequencer_ = std::make_unique<Sequencer>(options_, cache_, at_.me, world_, [this](Entry& entry) {
    raw_.clear();
    if (!at_.children.empty()) append_entry(raw_, entry);
    apply(entry, raw_);
  });
}

void Negotiator::step(Time now, const Inputs& in, Outputs& out) {
  now_ = now, out_ = &out;
  out.clear();
  cache_.purge();
  if (std::exchange(any_removed_, false))
    std::erase_if(sets_, [](const auto& pair) { return pair.second.removed; });
  neighbors_.step_begins(now, options_.failure_timeout / 2);
  for (const auto& message : in.messages)
    if (!dead_) receive(message);
  for (const auto& lost : in.lost)
    if (!dead_) abort({lost.rank, lost.cause + witness(lost.rank)}, lost.rank);
  for (const Submission* submission : in.requests) submit(*submission);
  for (const uint16_t domain : in.flushes)
    push_all([&](const Submission& each) { return each.signature.domain == domain; });
  for (const Submission* submission : in.waits)
    if (const uint32_t index = pending_.lingering(submission); index != Pending::kNone) push(index);
  for (const auto& each : in.joins) join(each);
  if (in.leave && !leaving_ && !dead_) leave();
  for (const auto& answer : in.answers) questions_.own_text(answer.query, answer.text, up_.missing);
  questions_.expire(now, up_.missing);
  if (sequencer_)
    for (const Seq plan : in.finished) sequencer_->finished(plan);
  out.wake_at = std::min(leave_deadline_, questions_.next_deadline());
  if (!dead_ && now >= leave_deadline_) abort({at_.me, "shut down before its peers did"}, -1);
  if (!dead_ && options_.heartbeats) watch_neighbors();
  if (!dead_) stalls();
  if (!dead_) pump();
  if (const auto& violation = gatherer_.violation(); violation && !dead_)
    violated(violation->slot ? at_.children[violation->slot - 1] : at_.me, violation->what);
  flush_sends();
}

Negotiator::Set* Negotiator::find_set(SetId set) {
  const auto it = sets_.find(set);
  return it == sets_.end() || it->second.removed ? nullptr : &it->second;
}

bool Negotiator::in_set(SetId set) const {
  const auto it = sets_.find(set);
  return it != sets_.end() && it->second.mine && !it->second.removed;
}

const std::vector<Rank>* Negotiator::members(SetId set) const {
  const auto it = sets_.find(set);
  return it == sets_.end() ? nullptr : &it->second.ranks;
}

Status Negotiator::refusal(const Submission& submission) const {
  const auto because = [&](Code code, const std::string& what) {
    return Status(code, "'" + submission.name.substr(0, 64) + "': " + what);
  };
  if (dead_) return dead_status_;
  if (leaving_) return because(Code::kShutdown, "this rank has shut down");
  const auto set = sets_.find(submission.set);
  if (set == sets_.end() || set->second.removed || !set->second.mine)
    return because(Code::kInvalidArgument,
                   "this rank is not a member of process set " + std::to_string(submission.set));
  if (set->second.joined) return because(Code::kInvalidArgument, "this rank has joined");
  const Signature& signature = submission.signature;
  const std::vector<Rank>& ranks = set->second.ranks;
  if (signature.op == Op::kBroadcast &&
      !std::binary_search(ranks.begin(), ranks.end(), signature.root))
    return because(Code::kInvalidArgument,
                   "root rank " + std::to_string(signature.root) + " is not in process set " +
                       std::to_string(submission.set) + ", whose ranks are " + list_of(ranks));
  const bool about_sets = signature.op == Op::kAddSet || signature.op == Op::kRemoveSet;
  if (about_sets && submission.set != 0)
    return because(Code::kInvalidArgument, "process sets are added and removed in set 0");
  if (signature.op == Op::kAddSet && !are_members(signature, world_))
    return because(Code::kInvalidArgument, "members must be ranks below " + std::to_string(world_) +
                                               ", ascending, each once, and at least one");
  if (pending_.count() >= Limits::kInFlight)
    return because(Code::kInvalidArgument, "more than 65,536 requests in flight");
  return check_limits(submission.name, signature);
}

void Negotiator::submit(const Submission& submission) {
  const uint64_t hash = NameIndex::hash(submission.set, submission.name);
  Status refused = refusal(submission);
  if (refused.ok() && pending_.find(submission.set, submission.name, hash) != Pending::kNone)
    refused = {Code::kInvalidArgument, "'" + submission.name + "': still in flight"};
  if (!refused.ok()) {
    out_->completions.push_back({submission.handle, std::move(refused), 0});
    return;
  }
  const Time ask_at = now_ + options_.stall_after;
  stall_check_ = std::min(stall_check_, ask_at);
  if (options_.stall_abort > 0) stall_check_ = std::min(stall_check_, now_ + options_.stall_abort);
  const uint32_t index = pending_.add(submission, hash, now_, ask_at);
  pending_[index].behind = foresight_.blocks(hash, submission.set, submission.name);
  if (!pending_[index].behind) announce(index);
}

void Negotiator::announce(uint32_t index) {
  const Pending::Request& request = pending_[index];
  const Submission& submission = *request.submission;
  const ItemId id = cache_.find(submission.set, submission.name, request.hash);
  const auto* item = cache_.live(id);
  values_.clear();
  const bool carried = is_carried(submission.signature, options_, world_);
  if (carried) append_values(values_, at_.me, submission.values);
  if (!item || item->signature != submission.signature)
    return gatherer_.declare(0, {submission.set,
                                 submission.name,
                                 false,
                                 submission.priority,
                                 {{at_.me, 1, submission.signature}},
                                 values_});
  if (carried) return gatherer_.ready(0, id, false, values_);
  const ItemId bucket = item->bucket;
  if (!bucket) return gatherer_.ready(0, id, false);
  pending_.linger(index);
  const auto& tensors = cache_.live(bucket)->tensors;
  size_t& filled = filled_[bucket];
  if (++filled < tensors.size()) return;
  filled = 0;
  for (const ItemId tensor : tensors) {
    const auto& each = *cache_.live(tensor);
    pending_.unlinger(pending_.find(each.set, each.name, each.hash));
  }
  gatherer_.ready(0, bucket, false);
}

// A lingering request is announced loose.
void Negotiator::push(uint32_t index) {
  if (!pending_[index].lingering) return;
  pending_.unlinger(index);
  const Submission& submission = *pending_[index].submission;
  const ItemId id = cache_.find(submission.set, submission.name, pending_[index].hash);
  --filled_[cache_.live(id)->bucket];
  gatherer_.ready(0, id, false);
}

void Negotiator::push_all(const std::function<bool(const Submission&)>& which) {
  if (pending_.lingering_count() == 0) return;
  for (uint32_t i = pending_.first(); i != Pending::kNone; i = pending_.next(i))
    if (pending_[i].lingering && which(*pending_[i].submission)) push(i);
}

void Negotiator::join(const Join& join) {
  Set* set = find_set(join.set);
  if (dead_ || leaving_ || !set || !set->mine || set->joined) {
    Status bad(Code::kInvalidArgument, "join: this rank is not a member of process set " +
                                           std::to_string(join.set) + ", or has joined already");
    if (leaving_) bad = {Code::kShutdown, "join: this rank has shut down"};
    if (dead_) bad = dead_status_;
    out_->completions.push_back({join.handle, std::move(bad), 0});
    return;
  }
  set->joined = true, set->join = join.handle;
  push_all([&](const Submission& each) { return each.set == join.set; });
  be_quiet();
}

void Negotiator::leave() {
  leaving_ = true, leave_deadline_ = now_ + options_.leave_timeout;
  push_all([](const Submission&) { return true; });
  up_.leaving.push_back(at_.me);
  be_quiet();
}

void Negotiator::receive(const Inputs::Message& message) {
  auto* neighbor = neighbors_.find(message.from);
  if (!neighbor) return;
  Frame frame;
  Status status = decode_frame(message.bytes, frame);
  if (status.ok() && frame.epoch != epoch_) return;  // a late message of another membership
  neighbor->heard = now_;
  const size_t slot = neighbors_.slot_of(message.from);
  if (status.ok() && frame.type == FrameType::kUp) {
    if (slot == 0) return violated(message.from, "an announcement from the parent");
    status = decode_up(frame.body, received_);
    if (status.ok()) return receive_up(slot, message.from);
  } else if (status.ok() && frame.type == FrameType::kLog) {
    if (message.from != at_.parent) return violated(message.from, "a log from a child");
    while (status.ok() && !frame.body.empty() && !dead_) {
      std::string_view raw;
      status = decode_entry(frame.body, entry_, raw);
      if (!status.ok()) break;
      if (entry_.seq <= applied_) return violated(message.from, "the log goes backwards");
      apply(entry_, raw);
    }
  } else if (status.ok() && frame.type == FrameType::kAhead) {
    if (message.from != at_.parent) return violated(message.from, "values from a child");
    Ahead ahead;
    status = decode_ahead(frame.body, ahead);
    if (status.ok()) return receive_ahead(ahead);
  } else if (status.ok() && frame.type == FrameType::kAbort) {
    Abort why;
    status = decode_abort(frame.body, why);
    if (status.ok()) return abort(why, message.from);
  }
  if (!status.ok()) violated(message.from, status.message());
}

// With what this rank's subtree has announced they are all values of the operation.
void Negotiator::receive_ahead(const Ahead& ahead) {
  if (ahead.generation != generation_) return;
  const auto* item = cache_.live(ahead.id);
  if (!item || !item->carried || ahead.values.empty() ||
      !are_values(ahead.values, item->signature, *members(item->set)))
    return violated(at_.parent, "values of an unknown operation");
  foresight_.heard(ahead.id, ahead.values);
  meet(ahead.id);
}

// Both sides of the link have promised: this rank and those below it are done.
void Negotiator::meet(ItemId id) {
  const auto& item = *cache_.live(id);
  if (!foresight_.meet(id, members(item.set)->size(), values_)) return;
  for (size_t child = 0; child < at_.children.size(); ++child)
    if (gatherer_.has_members(item.set, child + 1)) send_ahead(child, id, values_);
  if (foresight_.ahead(item.hash, item.set, item.name)) return;  // announced again: it was done
  const uint32_t index = pending_.find(item.set, item.name, item.hash);
  if (index == Pending::kNone || !in_set(item.set)) return;
  foresight_.ended(*pending_[index].submission, item.hash, at_.me);
  Outputs::Result& result = out_->results.next();
  result.handle = pending_[index].submission->handle, result.seq = 0, result.set = item.set;
  result.values.swap(values_);
  pending_.remove(index);
}

bool Negotiator::credible_values(const Signature& signature, std::string_view values,
                                 size_t slot) const {
  if (!is_carried(signature, options_, world_)) return values.empty();
  return are_values(values, signature, at_.slot_ranks[slot]);
}

// Do the ranks that a child names exist, and lie below it where they must?
bool Negotiator::credible(size_t slot) const {
  const auto& below = at_.slot_ranks[slot];
  const auto ours = [&](Rank rank) { return std::binary_search(below.begin(), below.end(), rank); };
  for (const Declare& declare : received_.declares)
    for (const Variant& variant : declare.variants) {
      if (!ours(variant.rank)) return false;
      if (variant.signature.op == Op::kAddSet && !are_members(variant.signature, world_))
        return false;
    }
  for (const Declare& declare : received_.declares)
    if (declare.variants.size() == 1 &&
        !credible_values(declare.variants[0].signature, declare.values, slot))
      return false;
  for (const Carried& carried : received_.carried)
    if (const auto* item = cache_.live(carried.id);
        item && !credible_values(item->signature, carried.values, slot))
      return false;
  const auto quiet_ours = [&](const Quiet& quiet) { return ours(quiet.last); };
  const auto missing_ours = [&](const Missing& missing) {
    return std::all_of(missing.ranks.begin(), missing.ranks.end(), ours);
  };
  return std::all_of(received_.quiet.begin(), received_.quiet.end(), quiet_ours) &&
         std::all_of(received_.leaving.begin(), received_.leaving.end(), ours) &&
         std::all_of(received_.missing.begin(), received_.missing.end(), missing_ours);
}

void Negotiator::receive_up(size_t slot, Rank from) {
  if (!credible(slot)) return violated(from, "an announcement that names ranks it must not");
  if (received_.generation == generation_) {
    for (const ItemId id : received_.full) gatherer_.ready(slot, id, false);
    for (const ItemId id : received_.partial) gatherer_.ready(slot, id, true);
    for (const Carried& carried : received_.carried)
      gatherer_.ready(slot, carried.id, carried.partial, carried.values);
    for (const Declare& declare : received_.declares) gatherer_.declare(slot, declare);
    for (const Quiet& quiet : received_.quiet) gatherer_.quiet(slot, quiet.set, quiet.last);
  }
  up_.leaving.insert(up_.leaving.end(), received_.leaving.begin(), received_.leaving.end());
  for (StallQuery& stall : received_.stalls) {
    const auto same = [&](const StallQuery& each) {
      return each.set == stall.set && each.name == stall.name;
    };
    const bool known = std::any_of(up_.stalls.begin(), up_.stalls.end(), same);
    if (!known && up_.stalls.size() < Limits::kQuestions) up_.stalls.push_back(std::move(stall));
  }
  for (const Missing& missing : received_.missing)
    questions_.hear(missing.query, slot, missing, up_.missing);
}

// Moves what the gatherer completed to the parent, or at the root into decisions, until nothing
// moves.
void Negotiator::pump() {
  if (!sequencer_) {
    const size_t before = up_.carried.size();
    gatherer_.take(up_);
    for (size_t i = before; i < up_.carried.size(); ++i) {
      if (up_.carried[i].partial) continue;
      foresight_.announced(up_.carried[i].id, up_.carried[i].values);
      meet(up_.carried[i].id);
    }
    return;
  }
  for (const Rank rank : up_.leaving) sequencer_->leaving(rank);
  for (const StallQuery& stall : up_.stalls) sequencer_->stall(stall);
  up_.leaving.clear(), up_.stalls.clear();
  for (bool first = true; !dead_; first = false) {
    complete_.clear();
    gatherer_.take(complete_);
    complete_.missing.swap(up_.missing);
    if (complete_.empty() && !first) return;
    for (const Missing& answer : complete_.missing) sequencer_->missing(answer);
    sequencer_->decide(complete_);
    sequencer_->issue();
  }
}

std::string& Negotiator::next_send(Rank to) {
  if (auto* neighbor = neighbors_.find(to)) neighbor->sent = now_;
  Outputs::Send& send = out_->sends.next();
  send.to = to;
  return send.bytes;
}

void Negotiator::flush_log(size_t child) {
  std::string& frame = down_[child];
  if (frame.empty()) return;
  end_frame(frame);
  next_send(at_.children[child]).swap(frame);
  frame.clear();
}

// After the log so far: what it says of an earlier use of the name must have been heard.
void Negotiator::send_ahead(size_t child, ItemId id, std::string_view values) {
  flush_log(child);
  std::string& frame = next_send(at_.children[child]);
  begin_frame(frame, FrameType::kAhead, epoch_);
  append_ahead(frame, {generation_, id, values});
  end_frame(frame);
}

void Negotiator::flush_sends() {
  for (size_t child = 0; child < at_.children.size(); ++child) flush_log(child);
  gatherer_.take_ahead([this](size_t slot, ItemId id, std::string_view values) {
    if (!dead_) send_ahead(slot - 1, id, values);
  });
  if (dead_ || at_.parent < 0 || up_.empty()) return;
  up_.generation = generation_, up_.applied = applied_;
  encode_up(up_, epoch_, options_.cut_bytes,
            [this]() -> std::string& { return next_send(at_.parent); });
  up_.clear();
}

std::string Negotiator::where(Rank rank) const {
  const auto index = static_cast<size_t>(rank);
  return index < options_.where.size() ? options_.where[index] : std::string();
}

void Negotiator::watch_neighbors() {
  for (auto& neighbor : neighbors_.all()) {
    if (now_ - neighbor.heard >= options_.failure_timeout)
      return abort({neighbor.rank, "silent for the failure timeout" + witness(neighbor.rank)}, -1);
    if (now_ - neighbor.sent >= options_.failure_timeout / 4) {
      std::string& ping = next_send(neighbor.rank);
      begin_frame(ping, FrameType::kPing, epoch_);
      end_frame(ping);
    }
    out_->wake_at = std::min({out_->wake_at, neighbor.heard + options_.failure_timeout,
                              neighbor.sent + options_.failure_timeout / 4});
  }
}

// Whoever is late is asked for after stall_after, then after twice as long, and so on.
void Negotiator::stalls() {
  constexpr size_t kQuestionsAtOnce = 16;
  if (now_ >= stall_check_) {
    stall_check_ = kNever;
    size_t asked = 0;
    for (uint32_t i = pending_.first(); i != Pending::kNone; i = pending_.next(i)) {
      Pending::Request& request = pending_[i];
      if (request.handed) continue;
      const Submission& submission = *request.submission;
      const Time give_up = options_.stall_abort > 0 ? request.since + options_.stall_abort : kNever;
      if (now_ >= give_up) {
        const std::string late = request.late.empty() ? "others" : "ranks " + list_of(request.late);
        return abort({request.late.empty() ? at_.me : request.late[0],
                      "stall_abort: '" + submission.name + "' waits for " + late},
                     -1);
      }
      if (now_ >= request.ask_at) {
        request.ask_at = now_ + options_.stall_after;
        if (asked++ < kQuestionsAtOnce) {
          up_.stalls.push_back({submission.set, submission.name});
          request.ask_at = now_ + std::max(now_ - request.since, options_.stall_after);
        }
      }
      stall_check_ = std::min({stall_check_, request.ask_at, give_up});
    }
  }
  out_->wake_at = std::min(out_->wake_at, stall_check_);
}

// At the root the log is this rank's own.
void Negotiator::violated(Rank sender, const std::string& what) {
  const Rank guilty = sender < 0 ? at_.me : sender;
  abort({guilty, "protocol: " + what + where(guilty)}, -1);
}

// When a link between two living ranks breaks, each blames the other; who says so is the other end.
std::string Negotiator::witness(Rank culprit) const {
  return culprit == at_.me ? where(culprit)
                           : where(culprit) + " (noticed by rank " + std::to_string(at_.me) + ")";
}

// Flooded to everybody but `except`, who sent it or is gone.
void Negotiator::abort(const Abort& why, Rank except) {
  if (dead_) return;
  dead_ = true;
  const bool own = leaving_ && why.culprit == at_.me;
  dead_status_ =
      own ? Status(Code::kShutdown, why.cause)
          : Status(Code::kPeerLost, "lost rank " + std::to_string(why.culprit) + ": " + why.cause);
  for (const auto& neighbor : neighbors_.all()) {
    if (neighbor.rank == except) continue;
    std::string& frame = next_send(neighbor.rank);
    begin_frame(frame, FrameType::kAbort, epoch_);
    append_abort(frame, why);
    end_frame(frame);
  }
  finish_all(dead_status_);
  out_->aborted = out_->closed = true;
  out_->why = why;
}

}  // namespace hora
