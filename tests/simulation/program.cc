// The programs that the simulation's users run: random, but such that what must come of each
// operation is known beforehand.
#include <algorithm>
#include <array>

#include "tests/simulation/simulation.h"

namespace hora {

using Kind = Action::Kind;

const Action* Simulation::keep(Action action) {
  return &actions_.emplace_back(std::move(action));
}

const Action* Simulation::plain(Kind kind) {
  return keep({kind});
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

namespace {

// The same operation as an odd rank submits it, so that ranks disagree.
Action unlike(Action action, uint64_t how) {
  Signature& signature = action.signature;
  if (how == 0) signature.shapes[0][0] += 1;
  if (how == 1) signature.dtype = DType::kFloat64;
  if (how == 2) signature.chain += "x";
  if (how == 3) signature.prescale = 2;
  return action;
}

}  // namespace

void Simulation::plain_phase(int set_index) {
  struct Choice {
    const Action* action = nullptr;
    const Action* odd_action = nullptr;
    Rank late = -1, odd = -1;
  };
  std::vector<Choice> choices;
  const auto& members = members_[static_cast<size_t>(set_index)];
  const int count = 1 + static_cast<int>(random(7));
  std::set<int> used;
  for (int i = 0; i < count; ++i) {
    const int name = static_cast<int>(random(30));
    if (!used.insert(name).second) continue;
    Choice choice;
    Action action{Kind::kSubmit};
    action.set_index = set_index, action.name = "t" + std::to_string(name);
    action.priority = static_cast<int16_t>(random(4));
    const uint64_t again = random(UINT64_MAX);
    // Mostly what this name was before, so that it is in the cache.
    rng_.seed(settings_.seed * 31 + static_cast<uint64_t>(name) + (chance(10) ? random(1000) : 0));
    action.signature = random_signature(name);
    if (action.signature.op == Op::kBroadcast) action.signature.root = members.front();
    rng_.seed(again);
    Expect expect;
    if (settings_.mismatches && members.size() > 1 && chance(15) &&
        action.signature.op != Op::kBarrier) {
      choice.odd = members[random(members.size())];
      expect = {false, true};
    } else if (chance(8)) {
      choice.late = members[random(members.size())];
    }
    action.instance = instance(expect);
    choice.action = keep(action);
    if (choice.odd >= 0) choice.odd_action = keep(unlike(action, random(4)));
    choices.push_back(choice);
  }
  for (const Rank r : members) {
    std::vector<const Action*> mine, late;
    for (const Choice& choice : choices)
      (choice.late == r ? late : mine)
          .push_back(choice.odd == r ? choice.odd_action : choice.action);
    std::ranges::shuffle(mine, rng_);
    auto& script = ranks_[static_cast<size_t>(r)].script;
    script.insert(script.end(), mine.begin(), mine.end());
    if (!mine.empty() && chance(20)) {
      Action twice = *script.back();
      twice.kind = Kind::kTwice;
      script.back() = keep(twice);
    }
    if (!late.empty()) {
      Action sleep{Kind::kSleep};
      sleep.sleep = random_time(3'000'000);
      script.push_back(keep(sleep));
    }
    script.insert(script.end(), late.begin(), late.end());
    script.push_back(plain(Kind::kWaitAll));
  }
}

// More operations without names than there are cyclic names, so that some wait for their turn.
void Simulation::unnamed_phase(int set_index) {
  const auto& members = members_[static_cast<size_t>(set_index)];
  std::vector<std::pair<const Action*, const Action*>> ops;
  const Rank odd = members[random(members.size())];
  for (uint64_t i = 2 + random(10); i > 0; --i) {
    Action action{Kind::kSubmit};
    action.set_index = set_index;
    action.signature.op = chance(70) ? Op::kAllreduce : Op::kAllgather;
    action.signature.shapes = {{static_cast<int64_t>(1 + random(chance(70) ? 1 : 20))}};
    const bool disagree = settings_.mismatches && members.size() > 1 && chance(8);
    action.instance = instance({!disagree, disagree});
    const Action* kept = keep(action);
    ops.push_back({kept, disagree ? keep(unlike(action, random(4))) : kept});
  }
  for (const Rank r : members) {
    auto& script = ranks_[static_cast<size_t>(r)].script;
    for (const auto& [action, other] : ops) {
      script.push_back(r == odd ? other : action);
      if (chance(5)) script.push_back(plain(Kind::kWaitAll));
    }
    script.push_back(plain(Kind::kWaitAll));
  }
}

void Simulation::train_phase(int set_index, int domain, int steps, bool uneven) {
  const auto& members = members_[static_cast<size_t>(set_index)];
  const int params = 3 + static_cast<int>(random(8));
  std::map<Rank, int> stop;
  for (const Rank r : members)
    stop[r] = uneven ? static_cast<int>(random(static_cast<uint64_t>(steps) + 1)) : steps;
  for (int s = 0; s < steps; ++s) {
    std::vector<const Action*> ops;
    const bool skip_one = chance(20);
    const int skipped = static_cast<int>(random(static_cast<uint64_t>(params)));
    for (int p = 0; p < params; ++p) {
      if (skip_one && p == skipped) continue;  // unused by everybody this step
      Action action{Kind::kSubmit};
      action.set_index = set_index;
      action.name = "g" + std::to_string(domain) + "." + std::to_string(p);
      action.signature.domain = static_cast<uint16_t>(domain);
      action.signature.dtype = p % 4 == 3 ? DType::kBFloat16 : DType::kFloat32;
      action.signature.shapes = {{16 + p * 7}};
      if (p == 1 && s == steps - 1 && chance(30))
        action.signature.shapes[0][0] += 5;  // changes shape
      action.instance = instance({true});
      ops.push_back(keep(action));
    }
    if (uneven && chance(30)) {
      Action action{Kind::kSubmit};
      action.set_index = set_index, action.name = "metric";
      action.signature.op = chance(50) ? Op::kAllgather : Op::kAllreduce;
      if (action.signature.op == Op::kAllreduce)
        action.signature.reduce = chance(50) ? ReduceOp::kMax : ReduceOp::kSum;
      action.name += std::to_string(static_cast<int>(action.signature.op)) +
                     std::to_string(static_cast<int>(action.signature.reduce));
      action.signature.shapes = {{1}};
      action.instance = instance({true, false, true});
      ops.push_back(keep(action));
    }
    for (const Rank r : members) {
      if (s >= stop[r]) continue;
      auto mine = ops;
      for (int swaps = static_cast<int>(random(3)); swaps > 0 && mine.size() > 1; --swaps)
        std::swap(mine[random(mine.size())], mine[random(mine.size())]);
      const Action* forced = nullptr;  // a branch this rank did not use: submitted after the flush
      if (chance(10) && !mine.empty()) forced = mine.back(), mine.pop_back();
      auto& script = ranks_[static_cast<size_t>(r)].script;
      script.insert(script.end(), mine.begin(), mine.end());
      if (chance(70)) script.push_back(keep({Kind::kFlush, domain}));
      if (forced) script.push_back(forced);
      if (!(uneven && s + 1 == stop[r] && chance(50))) script.push_back(plain(Kind::kWaitAll));
    }
  }
  if (!uneven) return;
  for (const Rank r : members) {
    auto& script = ranks_[static_cast<size_t>(r)].script;
    script.push_back(keep({Kind::kJoin, -1, set_index}));
    script.push_back(plain(Kind::kWaitAll));
  }
}

void Simulation::set_phase(const std::vector<int>& live) {
  const auto all_do = [&](const Action* action) {
    for (auto& rank : ranks_) {
      rank.script.push_back(action);
      rank.script.push_back(plain(Kind::kWaitAll));
    }
  };
  if (live.size() < 2 || (live.size() < 5 && chance(67))) {
    std::vector<Rank> ranks;
    for (Rank r = 0; r < settings_.ranks; ++r)
      if (chance(60)) ranks.push_back(r);
    if (ranks.empty()) ranks.push_back(any_rank());
    Action add{Kind::kAddSet};
    add.name = "add" + std::to_string(members_.size());
    add.set_index = static_cast<int>(members_.size());
    add.signature.op = Op::kAddSet, add.signature.shapes = {{ranks.begin(), ranks.end()}};
    add.instance = instance({true});
    all_do(keep(add));
    members_.push_back(ranks), removed_.push_back(false);
    return;
  }
  const int which = live[1 + random(live.size() - 1)];
  const auto& members = members_[static_cast<size_t>(which)];
  Action remove{Kind::kRemoveSet};
  remove.name = "remove" + std::to_string(which), remove.set_index = which;
  remove.signature.op = Op::kRemoveSet;
  remove.instance = instance({true});
  if (chance(30) && settings_.fault != Fault::kLeaveEarly && members.size() > 1) {
    Action orphan{Kind::kSubmit};  // not all members submit it: it must fail with the set
    orphan.name = "orphan", orphan.set_index = which, orphan.signature.shapes = {{3}};
    orphan.instance = instance({false, false, false, true});
    ranks_[static_cast<size_t>(members[0])].script.push_back(keep(orphan));
  }
  all_do(keep(remove));
  removed_[static_cast<size_t>(which)] = true;
}

void Simulation::make_scripts() {
  int domain = 1;
  for (int phase = 0; phase < settings_.phases; ++phase) {
    std::vector<int> live;
    for (size_t i = 0; i < members_.size(); ++i)
      if (!removed_[i]) live.push_back(static_cast<int>(i));
    const auto any_set = [&] { return live[random(live.size())]; };
    const int kind = static_cast<int>(random(11));
    if (kind < 4) {
      for (int i = static_cast<int>(random(3)); i >= 0; --i) plain_phase(any_set());
    } else if (kind < 7) {
      train_phase(any_set(), domain++, 2 + static_cast<int>(random(7)),
                  settings_.joins && chance(40));
    } else if (kind < 8) {
      unnamed_phase(any_set());
    } else if (settings_.sets) {
      set_phase(live);
    }
  }
  for (auto& rank : ranks_) rank.script.push_back(plain(Kind::kLeave));
  if (settings_.fault == Fault::kLeaveEarly) {
    auto& script = ranks_[random(ranks_.size())].script;
    script.resize(random(script.size()) + 1);
    std::erase_if(script, [](const Action* each) { return each->kind == Kind::kLeave; });
    script.push_back(plain(Kind::kLeave));
    early_left_ = true;
  }
  outcomes_.resize(expects_.size());
}

}  // namespace hora
