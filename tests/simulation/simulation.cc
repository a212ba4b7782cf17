#include "tests/simulation/simulation.h"

#include <algorithm>
#include <array>
#include <utility>

namespace hora {

Settings random_settings(uint64_t seed) {
  Settings s;
  s.seed = seed;
  std::mt19937_64 rng(seed * 7919);
  const auto pick = [&](uint64_t n) { return rng() % n; };
  s.ranks = 1 + static_cast<int>(pick(9));
  s.kills = pick(5) == 0, s.pauses = !s.kills && pick(6) == 0;
  s.early_leave = !s.kills && !s.pauses && pick(8) == 0;
  s.phases = 3 + static_cast<int>(pick(8));
  s.delay_max = pick(2) ? 20'000 : 500'000;
  s.options.bucket_bytes = pick(2) ? 1024 : 8192;
  s.options.express_bytes = pick(2) ? 0 : 512;
  s.options.window_bytes = std::array{64, 2048, 1 << 20}[pick(3)];  // 64: one plan at a time
  s.options.lanes = static_cast<uint8_t>(1 + pick(4));
  s.options.cache_capacity = pick(4) ? 65'536 : 6;  // small: resets all the time
  s.options.failure_timeout = 100'000'000, s.options.stall_after = 2'000'000;
  s.options.leave_timeout = 50'000'000'000;
  s.options.heartbeats = s.pauses || pick(10) == 0;
  return s;
}

void Report::add(const Report& other) {
  steps += other.steps, messages += other.messages, bytes += other.bytes, plans += other.plans;
  handles += other.handles, errors += other.errors, stable_plans += other.stable_plans;
  stalls += other.stalls, asks += other.asks, faults += other.faults;
}

void on_hosts_of_eight(Settings& settings, int ranks) {
  settings.ranks = ranks, settings.arity = 8;
  settings.hosts.clear();
  for (int rank = 0; rank < ranks; ++rank) settings.hosts.push_back(rank / 8);
}

Simulation::Simulation(const Settings& settings) : settings_(settings), rng_(settings.seed) {
  if (settings_.hosts.empty()) {
    const int per_host = 1 + static_cast<int>(random(3));
    for (Rank r = 0; r < settings_.ranks; ++r) settings_.hosts.push_back(r / per_host);
    settings_.arity = 1 + static_cast<int>(random(4));
  }
  tree_ = make_tree(settings_.hosts, settings_.arity);
  ranks_.resize(static_cast<size_t>(settings_.ranks));
  for (Rank r = 0; r < settings_.ranks; ++r) {
    ranks_[r].negotiator =
        std::make_unique<Negotiator>(tree_[r], settings_.ranks, 7, settings_.options, 0);
    members_[0].push_back(r);
  }
}

void Simulation::fail(const std::string& text) {
  if (report_.failure.empty()) report_.failure = text + " at t=" + std::to_string(now_);
}

void Simulation::post(Time at, int kind, Rank rank, int from, std::string bytes, Seq seq) {
  events_.push({at, order_++, kind, rank, from, std::move(bytes), seq});
}

Signature Simulation::random_signature(int name) {
  Signature signature;
  const int kind = name % 10;
  signature.op = kind < 6    ? Op::kAllreduce
                 : kind == 6 ? Op::kAllgather
                 : kind == 7 ? Op::kBroadcast
                 : kind == 8 ? Op::kReduceScatter
                             : Op::kBarrier;
  signature.reduce = kind == 5 ? ReduceOp::kMin : ReduceOp::kSum;
  signature.dtype = name % 2 ? DType::kInt32 : DType::kInt64;
  if (kind == 9) {
    signature.dtype = DType::kUInt8;
    return signature;
  }
  const int parts = kind == 4 ? 1 + static_cast<int>(random(3)) : 1;
  for (int i = 0; i < parts; ++i)
    signature.shapes.push_back({static_cast<int64_t>(1 + random(kind == 3 ? 4000 : 60)), 4});
  if (kind == 2) signature.chain = "onebit";
  if (kind == 3) signature.granule = static_cast<uint32_t>(std::array{1, 1, 32, 200, 0}[random(5)]);
  return signature;
}

void Simulation::plain_phase(int set_index) {
  struct Op_ {
    Action action;
    std::set<Rank> skip_now;
    Rank odd = -1;
  };
  std::vector<Op_> ops;
  const auto& members = members_[set_index];
  const int count = 1 + static_cast<int>(random(7));
  std::set<int> used;
  for (int i = 0; i < count; ++i) {
    const int name = static_cast<int>(random(30));
    if (!used.insert(name).second) continue;
    Op_ op;
    op.action.kind = Action::Kind::kSubmit, op.action.set_index = set_index;
    op.action.name = "t" + std::to_string(name),
    op.action.priority = static_cast<int16_t>(random(4));
    std::mt19937_64 keep = rng_;
    rng_.seed(settings_.seed * 31 + static_cast<uint64_t>(name) + (chance(10) ? random(1000) : 0));
    op.action.signature = random_signature(name);
    if (op.action.signature.op == Op::kBroadcast) op.action.signature.root = members.front();
    rng_ = keep, random(2);
    Expect expect;
    if (settings_.mismatches && members.size() > 1 && chance(15) &&
        op.action.signature.op != Op::kBarrier) {
      op.odd = members[random(members.size())];
      expect = {false, true};
    } else if (chance(8)) {
      op.skip_now.insert(members[random(members.size())]);
    }
    op.action.instance = instance(expect);
    ops.push_back(op);
  }
  for (Rank r : members) {
    std::vector<Action> mine, late;
    for (const Op_& op : ops) {
      Action action = op.action;
      if (op.odd == r) {
        switch (random(4)) {
          case 0:
            action.signature.shapes[0][0] += 1;
            break;
          case 1:
            action.signature.dtype = DType::kFloat64;
            break;
          case 2:
            action.signature.chain += "x";
            break;
          default:
            action.signature.prescale = 2;
            break;
        }
      }
      (op.skip_now.contains(r) ? late : mine).push_back(action);
    }
    std::ranges::shuffle(mine, rng_);
    auto& script = ranks_[r].script;
    script.insert(script.end(), mine.begin(), mine.end());
    if (chance(20) && !mine.empty()) {
      Action twice = script.back();
      twice.kind = Action::Kind::kTwice;
      script.back() = twice;
    }
    if (!late.empty())
      script.push_back(
          {Action::Kind::kSleep, -1, 0, "", {}, 0, static_cast<Time>(random(3'000'000))});
    script.insert(script.end(), late.begin(), late.end());
    script.push_back({Action::Kind::kWaitAll});
  }
}

void Simulation::train_phase(int set_index, int domain, int steps, bool uneven) {
  const auto& members = members_[set_index];
  const int params = 3 + static_cast<int>(random(8));
  std::map<Rank, int> stop;
  for (Rank r : members)
    stop[r] = uneven ? static_cast<int>(random(static_cast<uint64_t>(steps) + 1)) : steps;
  for (int s = 0; s < steps; ++s) {
    std::vector<Action> ops;
    const bool skip_one = chance(20);
    const int skipped = static_cast<int>(random(static_cast<uint64_t>(params)));
    for (int p = 0; p < params; ++p) {
      if (skip_one && p == skipped) continue;  // unused by everybody this step
      Action action{Action::Kind::kSubmit};
      action.set_index = set_index,
      action.name = "g" + std::to_string(domain) + "." + std::to_string(p);
      action.signature.domain = static_cast<uint16_t>(domain);
      action.signature.dtype = p % 4 == 3 ? DType::kBFloat16 : DType::kFloat32;
      action.signature.shapes = {{16 + p * 7}};
      if (p == 1 && s == steps - 1 && chance(30))
        action.signature.shapes[0][0] += 5;  // changes shape
      action.instance = instance({true});
      ops.push_back(action);
    }
    if (uneven && chance(30)) {
      Action action{Action::Kind::kSubmit};
      action.set_index = set_index, action.name = "metric";
      action.signature.op = chance(50) ? Op::kAllgather : Op::kAllreduce;
      if (action.signature.op == Op::kAllreduce)
        action.signature.reduce = chance(50) ? ReduceOp::kMax : ReduceOp::kSum;
      action.name += std::to_string(static_cast<int>(action.signature.op)) +
                     std::to_string(static_cast<int>(action.signature.reduce));
      action.signature.shapes = {{1}};
      action.instance = instance({true, false, true});
      ops.push_back(action);
    }
    for (Rank r : members) {
      if (s >= stop[r]) continue;
      auto mine = ops;
      for (int swaps = static_cast<int>(random(3)); swaps > 0 && mine.size() > 1; --swaps)
        std::swap(mine[random(mine.size())], mine[random(mine.size())]);
      std::vector<Action> forced;  // a branch this rank did not use: submitted after the flush
      if (chance(10) && !mine.empty()) forced.push_back(mine.back()), mine.pop_back();
      auto& script = ranks_[r].script;
      script.insert(script.end(), mine.begin(), mine.end());
      if (chance(70)) script.push_back({Action::Kind::kFlush, domain});
      script.insert(script.end(), forced.begin(), forced.end());
      if (!(uneven && s + 1 == stop[r] && chance(50))) script.push_back({Action::Kind::kWaitAll});
    }
  }
  if (!uneven) return;
  for (Rank r : members) {
    ranks_[r].script.push_back({Action::Kind::kJoin, -1, set_index});
    ranks_[r].script.push_back({Action::Kind::kWaitAll});
  }
}

void Simulation::make_scripts() {
  int domain = 1;
  for (int phase = 0; phase < settings_.phases; ++phase) {
    std::vector<int> live;
    for (size_t i = 0; i < members_.size(); ++i)
      if (!removed_[i]) live.push_back(static_cast<int>(i));
    const int kind = static_cast<int>(random(10));
    if (kind < 4) {
      for (int i = static_cast<int>(random(3)); i >= 0; --i) plain_phase(live[random(live.size())]);
    } else if (kind < 7) {
      train_phase(live[random(live.size())], domain++, 2 + static_cast<int>(random(7)),
                  settings_.joins && chance(40));
    } else if (kind < 9 && settings_.sets && live.size() < 5) {
      std::vector<Rank> ranks;
      for (Rank r = 0; r < settings_.ranks; ++r)
        if (chance(60)) ranks.push_back(r);
      if (ranks.empty())
        ranks.push_back(static_cast<Rank>(random(static_cast<uint64_t>(settings_.ranks))));
      Action add{Action::Kind::kAddSet};
      add.name = "add" + std::to_string(members_.size()),
      add.set_index = static_cast<int>(members_.size());
      add.signature.op = Op::kAddSet, add.signature.shapes = {{ranks.begin(), ranks.end()}};
      add.instance = instance({true});
      for (auto& rank : ranks_)
        rank.script.push_back(add), rank.script.push_back({Action::Kind::kWaitAll});
      members_.push_back(ranks), removed_.push_back(false);
    } else if (settings_.sets && live.size() > 1) {
      const int which = live[1 + random(live.size() - 1)];
      Action remove{Action::Kind::kRemoveSet};
      remove.name = "remove" + std::to_string(which), remove.set_index = which;
      remove.signature.op = Op::kRemoveSet;
      remove.instance = instance({true});
      if (chance(30) &&
          !settings_
               .early_leave) {  // an operation not all members submit: it must fail with the set
        Action orphan{Action::Kind::kSubmit};
        orphan.name = "orphan", orphan.set_index = which, orphan.signature.shapes = {{3}};
        orphan.instance = instance({false, false, false, true});
        if (members_[which].size() > 1) ranks_[members_[which][0]].script.push_back(orphan);
      }
      for (auto& rank : ranks_)
        rank.script.push_back(remove), rank.script.push_back({Action::Kind::kWaitAll});
      removed_[which] = true;
    }
  }
  for (auto& rank : ranks_) rank.script.push_back({Action::Kind::kLeave});
  if (settings_.early_leave) {
    auto& script = ranks_[random(ranks_.size())].script;
    script.resize(random(script.size()) + 1);
    std::erase_if(script, [](const Action& a) { return a.kind == Action::Kind::kLeave; });
    script.push_back({Action::Kind::kLeave});
    early_left_ = true;
  }
  outcomes_.resize(expects_.size());
}

void Simulation::wake_soon(Rank rank) {
  if (std::exchange(ranks_[rank].wake_scheduled, true)) return;
  post(now_ + static_cast<Time>(random(20'000)), kWake, rank);
}

void Simulation::submit(Rank rank, const Action& action, bool again) {
  Rank_& me = ranks_[rank];
  if (static_cast<size_t>(action.set_index) >= me.set_ids.size() &&
      action.kind != Action::Kind::kAddSet)
    return;
  Submission request{next_handle_++, 0, action.name, action.signature, action.priority};
  if (action.kind != Action::Kind::kAddSet && action.kind != Action::Kind::kRemoveSet)
    request.set = me.set_ids[action.set_index];
  if (action.kind == Action::Kind::kRemoveSet)
    request.signature.root = static_cast<int32_t>(me.set_ids[action.set_index]);
  const Handle handle = request.handle;
  Operation_& operation = me.operations[handle];
  operation.instance = again ? -2 : action.instance, operation.submitted = now_;
  operation.name = request.name, operation.signature = request.signature;
  operation.submission = std::make_unique<Submission>(std::move(request));
  operation.address = operation.submission.get();
  me.open.insert(handle);
  ++report_.handles;
  me.inbox.requests.push_back(operation.submission.get());
}

void Simulation::user(Rank rank) {
  Rank_& me = ranks_[rank];
  if (me.dead || me.done || me.blocked) return;
  if (me.paused_until > now_) return post(me.paused_until, kUser, rank);
  Time next = now_ + static_cast<Time>(random(chance(3) ? 2'000'000 : 30'000));
  const Action& action = me.script[me.pc++];
  switch (action.kind) {
    case Action::Kind::kSubmit:
    case Action::Kind::kAddSet:
    case Action::Kind::kRemoveSet:
      submit(rank, action, false);
      break;
    case Action::Kind::kTwice:
      submit(rank, action, false), submit(rank, action, true);
      break;
    case Action::Kind::kFlush:
      me.inbox.flushes.push_back(static_cast<uint16_t>(action.instance));
      break;
    case Action::Kind::kSleep:
      next += action.sleep;
      break;
    case Action::Kind::kLeave:
      me.inbox.leave = true;
      break;
    case Action::Kind::kJoin: {
      if (static_cast<size_t>(action.set_index) >= me.set_ids.size()) break;
      const SetId set = me.set_ids[action.set_index];
      Operation_& operation = me.operations[next_handle_];
      operation.instance = -3, operation.submitted = now_, operation.join = true;
      operation.name = "join";
      me.open.insert(next_handle_);
      ++report_.handles;
      me.joined.insert(set);
      me.inbox.joins.push_back({set, next_handle_++});
      break;
    }
    case Action::Kind::kWaitAll:
      for (Handle handle : me.open) {
        me.inbox.waits.push_back(me.operations[handle].address);  // perhaps decided
      }
      me.blocked = !me.open.empty();
      break;
  }
  wake_soon(rank);
  if (me.pc == me.script.size())
    me.done = true;
  else if (!me.blocked)
    post(next, kUser, rank);
}

void Simulation::step(Rank rank) {
  Rank_& me = ranks_[rank];
  if (me.dead) return;
  if (me.paused_until > now_) return post(me.paused_until, kWake, rank);
  me.wake_scheduled = false;
  for (const auto& message : me.messages)
    me.inbox.messages.push_back({message.first, message.second});
  Outputs& out = out_;
  me.negotiator->step(now_, me.inbox, out);
  me.inbox.clear();
  me.messages.clear();
  ++report_.steps;
  for (auto& send : out.sends) {
    ++me.sent, ++report_.messages, report_.bytes += send.bytes.size();
    Time& link = link_[{rank, send.to}];
    link = std::max(
        link + 1,
        now_ + 1000 + static_cast<Time>(random(static_cast<uint64_t>(settings_.delay_max))));
    post(link, kDeliver, send.to, rank, send.bytes);
  }
  for (const Plan& plan : out.plans) plan_arrives(rank, plan);
  for (const auto& completion : out.completions) {
    if (!me.operations.contains(completion.handle)) return fail("unknown handle");
    if (me.operations[completion.handle].owned)
      return fail("negotiator completed a handle it had given away");
    complete(rank, completion.handle, completion.status, completion.value);
  }
  for (const auto& ask : out.asks)
    if (!chance(30)) me.inbox.answers.push_back({ask.query, "rank " + std::to_string(rank)});
  report_.asks += out.asks.size();
  if (!me.inbox.answers.empty()) wake_soon(rank);
  report_.stalls += out.stalls.size();
  for (const auto& stall : out.stalls)
    for (const Detail& detail : stall.details)
      if (detail.text != "rank " + std::to_string(detail.rank))
        fail("a stall detail is not its rank's");
  for (const auto& stall : out.stalls)
    for (Rank missing : stall.ranks)
      if (missing < 0 || missing >= settings_.ranks) fail("stall names a rank that does not exist");
  if (out.aborted) {
    me.aborted = true, me.why = out.why;
    if (out.why.cause.starts_with("protocol"))
      fail("rank " + std::to_string(rank) + " aborts: " + out.why.cause);
    if (!guilty_.contains(out.why.culprit) && report_.failure.empty())
      fail("rank " + std::to_string(rank) + " blames innocent rank " +
           std::to_string(out.why.culprit) + ": " + out.why.cause);
    me.lanes.clear();
    const auto open = me.open;
    for (Handle handle : open)
      if (me.operations[handle].owned) complete(rank, handle, {Code::kPeerLost, "aborted"}, 0);
  }
  me.closed |= out.closed;
  if (!me.closed && out.wake_at < me.timer) {
    me.timer = out.wake_at;
    post(std::max(out.wake_at, now_ + 1), kTimer, rank);
  }
  if (me.blocked && me.open.empty() && !me.done)
    me.blocked = false, post(now_ + static_cast<Time>(random(10'000)), kUser, rank);
}

void Simulation::plan_arrives(Rank rank, const Plan& plan) {
  Rank_& me = ranks_[rank];
  if (plan.seq <= me.last_seq) fail("plans out of order");
  me.last_seq = plan.seq, me.seen.push_back(plan.seq);
  auto [it, first] = collectives_.try_emplace(plan.seq);
  Collective& collective = it->second;
  if (first) {
    collective.plan = plan, collective.first_seen = now_, ++report_.plans;
    collective.instances.assign(plan.slices.size(), -1);
    report_.stable_plans += plan.slices.size() > 1 &&
                            me.negotiator->cache().find(plan.slices[0].id) &&
                            me.negotiator->cache().find(plan.slices[0].id)->bucket;
  }
  const Plan& known = collective.plan;
  if (known.set != plan.set || known.lane != plan.lane || known.slices.size() != plan.slices.size())
    return fail("plans differ");
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const Slice& a = known.slices[i];
    const Slice& b = plan.slices[i];
    if (a.id != b.id || a.first != b.first || a.count != b.count || a.last != b.last)
      return fail("slices differ");
    if (b.handle == 0) {
      if (!me.joined.contains(plan.set))
        return fail("rank " + std::to_string(rank) + " runs what it neither submitted nor joined");
      continue;
    }
    Operation_& operation = me.operations.at(b.handle);
    if (operation.completed) return fail("plan for a completed handle");
    if (operation.submitted > collective.first_seen)
      return fail("plan ran before a member was ready");
    int& seen = collective.instances[i];
    if (seen >= 0 && seen != operation.instance)
      return fail("ranks pair different submissions of '" + operation.name + "'");
    seen = operation.instance;
    if (b.first + b.count > count_of(operation.signature))
      return fail("slice outside of its tensor");
    if (!b.last && operation.signature.granule > 1 &&
        (b.first + b.count) % operation.signature.granule)
      return fail("a piece ends inside of a granule");
    if (!b.last && operation.signature.granule == 0) return fail("split what must not be");
    operation.owned = true;
    if (b.last) operation.submission.reset();
  }
  auto& lane = me.lanes[plan.lane];
  lane.push_back(plan);
  if (lane.size() == 1) lane_start(rank, plan.lane);
}

void Simulation::lane_start(Rank rank, int lane) {
  const Plan& plan = ranks_[rank].lanes[lane].front();
  Collective& collective = collectives_.at(plan.seq);
  size_t members = static_cast<size_t>(settings_.ranks);
  for (size_t i = 0; i < members_.size(); ++i)
    if (ranks_[rank].set_ids.size() > i && ranks_[rank].set_ids[i] == plan.set)
      members = members_[i].size();
  if (++collective.arrived < members) return;
  for (Rank r = 0; r < settings_.ranks; ++r)
    post(now_ + 1000 + static_cast<Time>(random(100'000)), kLaneDone, r, -1, {}, plan.seq);
}

void Simulation::lane_done(Rank rank, Seq seq) {
  Rank_& me = ranks_[rank];
  if (me.dead || me.aborted) return;
  if (me.paused_until > now_) return post(me.paused_until, kLaneDone, rank, -1, {}, seq);
  for (auto& [index, lane] : me.lanes) {
    if (lane.empty() || lane.front().seq != seq) continue;
    const Plan plan = lane.front();
    lane.pop_front();
    for (const Slice& slice : plan.slices) {
      if (slice.handle == 0) continue;
      Operation_& operation = me.operations.at(slice.handle);
      if (slice.first != operation.done && slice.count) fail("pieces of a tensor out of order");
      operation.done += slice.count;
      if (operation.done == count_of(operation.signature)) complete(rank, slice.handle, {}, 0);
    }
    me.inbox.finished.push_back(seq);
    wake_soon(rank);
    if (!lane.empty()) lane_start(rank, index);
    break;
  }
}

void Simulation::complete(Rank rank, Handle handle, const Status& status, int64_t value) {
  Rank_& me = ranks_[rank];
  Operation_& operation = me.operations.at(handle);
  if (std::exchange(operation.completed, true)) return fail("handle completed twice");
  operation.status = status;
  operation.submission.reset();
  me.open.erase(handle);
  const bool faulty = !guilty_.empty();
  report_.errors += !status.ok();
  if (operation.join) {
    me.joined.clear();
    if (status.ok() && (value < 0 || value >= settings_.ranks)) fail("join returned no rank");
    if (!status.ok() && !faulty && !early_left_) fail("join failed: " + status.message());
  } else if (operation.instance == -2) {
    if (status.code() != Code::kInvalidArgument && !faulty && !early_left_)
      fail("a duplicate was not refused");
  } else {
    const Expect& expect = expects_[static_cast<size_t>(operation.instance)];
    const Code code = status.code();
    const bool good =
        (code == Code::kOk && expect.ok) || (code == Code::kMismatch && expect.mismatch) ||
        (code == Code::kJoined && expect.joined) || (code == Code::kSetRemoved && expect.removed) ||
        ((faulty || early_left_) && code != Code::kMismatch);
    if (!good)
      fail("'" + operation.name + "' on rank " + std::to_string(rank) + " ended with code " +
           std::to_string(static_cast<int>(code)) + ": " + status.message());
    if (!faulty && !early_left_) {
      auto& [known, outcome] = outcomes_[static_cast<size_t>(operation.instance)];
      if (known && outcome != status && code != Code::kSetRemoved)
        fail("ranks were told different things about '" + operation.name +
             "': " + outcome.message() + " / " + status.message());
      known = true, outcome = status;
    }
    if (operation.signature.op == Op::kAddSet)
      me.set_ids.push_back(status.ok() ? static_cast<SetId>(value) : 999999);
  }
  if (me.blocked && me.open.empty() && !me.done)
    me.blocked = false, post(now_ + static_cast<Time>(random(10'000)), kUser, rank);
}

void Simulation::final_checks() {
  for (Rank r = 0; r < settings_.ranks; ++r) {
    Rank_& me = ranks_[r];
    report_.messages_max = std::max(report_.messages_max, me.sent + me.received);
    if (me.dead) continue;
    for (auto& [handle, operation] : me.operations)
      if (!operation.completed)
        return fail("rank " + std::to_string(r) + " never completed '" + operation.name +
                    "' owned " + std::to_string(operation.owned) + " elements done " +
                    std::to_string(operation.done) + " of " +
                    std::to_string(count_of(operation.signature)) + " submitted " +
                    std::to_string(operation.submitted) + " blocked " + std::to_string(me.blocked) +
                    " closed " + std::to_string(me.closed));
    if (!me.done) return fail("rank " + std::to_string(r) + " is stuck");
    if (!me.closed) return fail("rank " + std::to_string(r) + " never closed");
  }
  if (!guilty_.empty()) return;
  for (const auto& rank : ranks_)
    if (rank.negotiator->digest() != ranks_[0].negotiator->digest()) return fail("logs differ");
  for (const auto& [seq, collective] : collectives_) {
    size_t index = 0;
    for (size_t i = 0; i < ranks_[0].set_ids.size() && i < members_.size(); ++i)
      if (ranks_[0].set_ids[i] == collective.plan.set) index = i;
    for (Rank r : members_[index])
      if (!std::ranges::binary_search(ranks_[r].seen, seq))
        return fail("a member never ran a plan");
  }
}

Report Simulation::run() {
  make_scripts();
  for (Rank r = 0; r < settings_.ranks; ++r) {
    post(static_cast<Time>(random(50'000)), kUser, r);
    post(0, kWake, r), ranks_[r].wake_scheduled = true;
  }
  const Time horizon = 20'000'000;
  if (settings_.kills)
    for (int i = 1 + static_cast<int>(random(2)); i > 0; --i)
      post(static_cast<Time>(random(horizon)), kKill, static_cast<Rank>(random(ranks_.size())));
  if (settings_.pauses)
    for (int i = 1 + static_cast<int>(random(2)); i > 0; --i)
      post(static_cast<Time>(random(horizon)), kPause, static_cast<Rank>(random(ranks_.size())));
  const Time limit = 60'000'000'000;
  while (!events_.empty() && report_.failure.empty()) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.at;
    Rank_& me = ranks_[event.rank];
    switch (event.kind) {
      case kDeliver:
        if (me.dead || me.closed) break;
        ++me.received;
        me.messages.emplace_back(event.from, event.bytes);
        wake_soon(event.rank);
        break;
      case kWake:
        step(event.rank);
        break;
      case kUser:
        user(event.rank);
        break;
      case kTimer:
        if (!me.dead && !me.closed) me.timer = INT64_MAX, wake_soon(event.rank);
        break;
      case kLaneDone:
        lane_done(event.rank, event.seq);
        break;
      case kKill:
        if (me.dead || me.closed) break;
        me.dead = true, guilty_.insert(event.rank), ++report_.faults;
        for (Rank neighbour : tree_[event.rank].children)
          post(now_ + static_cast<Time>(random(1'000'000)), kLost, neighbour, event.rank);
        if (tree_[event.rank].parent >= 0)
          post(now_ + static_cast<Time>(random(1'000'000)), kLost, tree_[event.rank].parent,
               event.rank);
        break;
      case kLost:
        if (me.dead || me.closed) break;
        me.inbox.lost.push_back({event.from, "connection closed"});
        wake_soon(event.rank);
        break;
      case kPause: {
        if (me.dead || me.closed) break;
        const bool lethal = chance(50);
        me.paused_until =
            now_ + static_cast<Time>(
                       lethal
                           ? settings_.options.failure_timeout * 2
                           : random(static_cast<uint64_t>(settings_.options.failure_timeout) / 3));
        if (lethal) guilty_.insert(event.rank);
        ++report_.faults;
        break;
      }
    }
    bool all = true;
    if (now_ > limit) break;
    if (events_.size() < 3 * ranks_.size() + 3) {
      for (const auto& rank : ranks_)
        all &= rank.dead || (rank.closed && rank.done && rank.open.empty());
      if (all) break;
    }
  }
  report_.ended = now_;
  if (report_.failure.empty()) final_checks();
  return report_;
}

}  // namespace hora
