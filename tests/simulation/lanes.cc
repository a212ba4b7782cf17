// What the lanes run, what comes of every operation, and the checks of both.
#include <algorithm>

#include "runtime/carried.h"
#include "tests/simulation/simulation.h"

namespace hora {

// By what this rank knows about the set: a set may have been removed elsewhere.
const std::vector<Rank>& Simulation::members(Rank rank, SetId set) const {
  const auto& ids = ranks_[static_cast<size_t>(rank)].set_ids;
  for (size_t i = 0; i < members_.size() && i < ids.size(); ++i)
    if (ids[i] == set) return members_[i];
  return members_[0];
}

void Simulation::plan_arrives(Rank rank, const Plan& plan) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (plan.seq <= me.last_seq) fail("plans out of order");
  if (plan.lane >= me.lanes.size()) return fail("a plan for a lane that does not exist");
  me.last_seq = plan.seq, me.seen.push_back(plan.seq);
  auto [it, first] = collectives_.try_emplace(plan.seq);
  Collective& collective = it->second;
  if (first) {
    collective.plan = plan, collective.first_seen = now_, ++report_.plans;
    collective.members = members(rank, plan.set).size();
    collective.instances.assign(plan.slices.size(), -1);
    const auto* item = me.negotiator->cache().find(plan.slices[0].id);
    report_.stable_plans += plan.slices.size() > 1 && item && item->bucket;
  }
  const Plan& known = collective.plan;
  if (known.set != plan.set || known.lane != plan.lane || known.slices.size() != plan.slices.size())
    return fail("plans differ");
  for (size_t i = 0; i < plan.slices.size(); ++i) check_slice(rank, plan.slices[i], collective, i);
  auto& lane = me.lanes[plan.lane];
  lane.push_back(plan);
  if (lane.size() == 1) lane_start(rank, plan.lane);
}

bool Simulation::carried(const Signature& signature) const {
  return is_carried(signature, settings_.options, settings_.ranks);
}

// Tells whose they are and of which operation.
std::string Simulation::values_of(const Signature& signature, int instance, Rank rank) const {
  if (!carried(signature)) return {};
  const bool gives = signature.op != Op::kBroadcast || rank == signature.root;
  std::string values(gives ? count_of(signature) * bytes_of(signature.dtype) : 0, '\0');
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<char>(instance * 31 + rank * 7 + static_cast<int>(i));
  return values;
}

void Simulation::result_arrives(Rank rank, const Outputs::Result& result) {
  ++report_.carried, report_.ahead += result.seq == 0;
  Operation_& mine = operation(result.handle);
  if (mine.owned || mine.completed) return fail("a result for a handle that was given away");
  std::set<Rank> from;
  bool right = for_each_value(result.values, [&](Rank each, std::string_view values) {
    if (!from.insert(each).second) fail("a rank's values came twice");
    if (values != values_of(mine.action->signature, mine.instance, each))
      fail("'" + mine.name + "' on rank " + std::to_string(rank) + " got rank " +
           std::to_string(each) + "'s values of something else");
  });
  right &= from.contains(rank);
  for (const Rank each : members(rank, result.set))
    right &= from.contains(each) ||  // it has joined
             !ranks_[static_cast<size_t>(each)].submitted.contains(mine.instance);
  if (!right) fail("values are missing of '" + mine.name + "'");
  complete(rank, result.handle, {}, 0);
}

void Simulation::check_slice(Rank rank, const Slice& slice, Collective& collective, size_t index) {
  const Slice& known = collective.plan.slices[index];
  if (known.id != slice.id || known.first != slice.first || known.count != slice.count ||
      known.last != slice.last)
    return fail("slices differ");
  if (slice.handle == 0) {
    if (!ranks_[static_cast<size_t>(rank)].joined.contains(collective.plan.set))
      fail("rank " + std::to_string(rank) + " runs what it neither submitted nor joined");
    return;
  }
  Operation_& mine = operation(slice.handle);
  if (mine.completed) return fail("plan for a completed handle");
  if (mine.submitted > collective.first_seen) return fail("plan ran before a member was ready");
  int& seen = collective.instances[index];
  if (seen >= 0 && seen != mine.instance)
    return fail("ranks pair different submissions of '" + mine.name + "'");
  seen = mine.instance;
  const uint64_t end = slice.first + slice.count;
  const uint32_t granule = mine.action->signature.granule;
  if (end > mine.count) return fail("slice outside of its tensor");
  if (!slice.last && granule > 1 && end % granule) return fail("a piece ends inside of a granule");
  if (!slice.last && granule == 0) return fail("split what must not be");
  if (slice.first != mine.planned) fail("pieces of a tensor out of order");
  mine.planned += slice.count;
  mine.owned = true;
  if (slice.last) mine.submission.reset();
}

// Does a member's data not reach this rank, or not leave it?
bool Simulation::broken(Rank rank, const Plan& plan) const {
  const auto& bad = ranks_[static_cast<size_t>(rank)].broken;
  if (bad.empty()) return false;
  const auto& ranks = members(rank, plan.set);
  return std::ranges::any_of(bad,
                             [&](Rank each) { return std::ranges::binary_search(ranks, each); });
}

void Simulation::lane_start(Rank rank, size_t lane) {
  const Plan& plan = ranks_[static_cast<size_t>(rank)].lanes[lane].front();
  if (broken(rank, plan)) return lane_fails(rank, lane);
  Collective& collective = collectives_.at(plan.seq);
  if (++collective.arrived < collective.members) return;
  const auto& all = members(rank, plan.set);
  Time begin = now_;
  const bool spans = !side_.empty() && std::ranges::any_of(all, [&](Rank each) {
    return side_[static_cast<size_t>(each)] != side_[static_cast<size_t>(all[0])];
  });
  if (spans) {
    if (settings_.fault != Fault::kOutage) return;  // it hangs until somebody notices
    for (const Rank_& each : ranks_)
      for (const Link& way : each.links) begin = std::max(begin, way.restored_at);
  }
  for (const Rank each : all)
    post(begin + 1000 + random_time(100'000), What::kLaneDone, each, -1, plan.seq);
}

void Simulation::lane_done(Rank rank, Seq seq) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.aborted) return;
  if (me.paused_until > now_) return post(me.paused_until, What::kLaneDone, rank, -1, seq);
  for (size_t index = 0; index < me.lanes.size(); ++index) {
    auto& lane = me.lanes[index];
    if (lane.empty() || lane.front().seq != seq) continue;
    if (broken(rank, lane.front())) return lane_fails(rank, index);
    const Plan plan = std::move(lane.front());
    lane.pop_front();
    for (const Slice& slice : plan.slices) {
      if (slice.handle == 0) continue;
      Operation_& mine = operation(slice.handle);
      if (mine.failed) continue;
      mine.done += slice.count;
      if (mine.done == mine.count) complete(rank, slice.handle, {}, 0);
    }
    me.inbox.finished.push_back(seq);
    wake_soon(rank);
    if (!lane.empty()) lane_start(rank, index);
    return;
  }
}

// What failed is kept open: the control plane is to say why (verdict()).
void Simulation::lane_fails(Rank rank, size_t index) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  auto& lane = me.lanes[index];
  while (!lane.empty() && broken(rank, lane.front())) {
    for (const Slice& slice : lane.front().slices)
      if (slice.handle) operation(slice.handle).failed = true;
    me.inbox.finished.push_back(lane.front().seq);
    if (me.failed.empty()) {
      me.failed = "a bucket";
      post(now_ + settings_.options.failure_timeout / 10 + 1, What::kVerdict, rank);
    }
    lane.pop_front();
  }
  wake_soon(rank);
  if (!lane.empty()) lane_start(rank, index);
}

void Simulation::complete(Rank rank, Handle handle, const Status& status, int64_t value) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  Operation_& mine = operation(handle);
  if (std::exchange(mine.completed, true)) return fail("handle completed twice");
  mine.submission.reset();
  std::erase(me.open, handle);
  report_.errors += !status.ok();
  if (mine.join) {
    me.joined.clear();
    if (status.ok() && (value < 0 || value >= settings_.ranks)) fail("join returned no rank");
    if (!status.ok() && !faulty_ && !early_left_) fail("join failed: " + status.message());
  } else if (mine.instance == -2) {
    if (status.code() != Code::kInvalidArgument && !faulty_ && !early_left_)
      fail("a duplicate was not refused");
  } else {
    check_outcome(rank, mine, status);
    if (mine.action->kind == Action::Kind::kAddSet)
      me.set_ids.push_back(status.ok() ? static_cast<SetId>(value) : 999999);
  }
  if (mine.unnamed)
    if (Operation* next = me.names->end(mine.unnamed->name)) {
      operation(next->submission.handle).submitted = now_;
      me.inbox.requests.push_back(&next->submission);
      wake_soon(rank);
    }
  if (me.blocked && me.open.empty() && !me.done) {
    me.blocked = false;
    post(now_ + random_time(10'000), What::kUser, rank);
  }
}

void Simulation::check_outcome(Rank rank, Operation_& mine, const Status& status) {
  const auto instance = static_cast<size_t>(mine.instance);
  const Expect& expect = expects_[instance];
  const Code code = status.code();
  const bool good =
      (code == Code::kOk && expect.ok) || (code == Code::kMismatch && expect.mismatch) ||
      (code == Code::kJoined && expect.joined) || (code == Code::kSetRemoved && expect.removed) ||
      ((faulty_ || early_left_) && code != Code::kMismatch);
  if (!good)
    fail("'" + mine.name + "' on rank " + std::to_string(rank) + " ended with code " +
         std::to_string(static_cast<int>(code)) + ": " + status.message());
  if (faulty_ || early_left_) return;
  auto& [known, outcome] = outcomes_[instance];
  if (known && outcome != status && code != Code::kSetRemoved)
    fail("ranks were told different things about '" + mine.name + "': " + outcome.message() +
         " / " + status.message());
  known = true, outcome = status;
}

void Simulation::final_checks() {
  for (Rank r = 0; r < settings_.ranks; ++r) {
    const Rank_& me = ranks_[static_cast<size_t>(r)];
    if (me.dead) continue;
    report_.survivors.push_back(r);
    if (!me.open.empty()) {
      const Operation_& stuck = operation(me.open[0]);
      return fail("rank " + std::to_string(r) + " never completed '" + stuck.name + "' owned " +
                  std::to_string(stuck.owned) + " elements done " + std::to_string(stuck.done) +
                  " of " + std::to_string(stuck.count) + " submitted " +
                  std::to_string(stuck.submitted) + " blocked " + std::to_string(me.blocked) +
                  " closed " + std::to_string(me.closed));
    }
    if (!me.done) return fail("rank " + std::to_string(r) + " is stuck");
    if (!me.closed) return fail("rank " + std::to_string(r) + " never closed");
  }
  report_.frames = std::move(recent_);
  if (faulty_) return check_detection();
  for (const auto& rank : ranks_) {
    if (rank.aborted) return fail("an epoch ended badly without a fault");
    if (rank.negotiator->digest() != ranks_[0].negotiator->digest()) return fail("logs differ");
  }
  for (const auto& [seq, collective] : collectives_)
    for (const Rank r : members(0, collective.plan.set))
      if (!std::ranges::binary_search(ranks_[static_cast<size_t>(r)].seen, seq))
        return fail("a member never ran a plan");
}

}  // namespace hora
