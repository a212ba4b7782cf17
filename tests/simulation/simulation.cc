#include "tests/simulation/simulation.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace hora {
namespace {

constexpr size_t kRemembered = 8;  ///< frames for strangers to repeat
constexpr int kMostEpochs = 4;

Fault random_fault(uint64_t percent) {
  using enum Fault;
  constexpr std::array kUpTo{std::pair{52, kNone},      std::pair{62, kKill},
                             std::pair{66, kKillHost},  std::pair{72, kPause},
                             std::pair{74, kSuspend},   std::pair{79, kCut},
                             std::pair{84, kVanish},    std::pair{89, kOutage},
                             std::pair{94, kDataError}, std::pair{100, kLeaveEarly}};
  for (const auto& [below, fault] : kUpTo)
    if (percent < static_cast<uint64_t>(below)) return fault;
  return kNone;
}

bool is_silent(Fault fault) {  // only heartbeats can find it
  return fault == Fault::kPause || fault == Fault::kSuspend || fault == Fault::kVanish ||
         fault == Fault::kOutage;
}

}  // namespace

Settings random_settings(uint64_t seed) {
  Settings s;
  s.seed = seed;
  std::mt19937_64 rng(seed * 7919);
  const auto pick = [&](uint64_t n) { return rng() % n; };
  s.ranks = 1 + static_cast<int>(pick(9));
  s.fault = random_fault(pick(100));
  s.recovers = pick(2) == 0;
  s.strangers = pick(5) == 0;
  s.phases = 3 + static_cast<int>(pick(8));
  s.delay_max = pick(2) ? 20'000 : 500'000;
  s.options.bucket_bytes = pick(2) ? 1024 : 8192;
  s.options.express_bytes = pick(2) ? 0 : 512;
  s.options.window_bytes = std::array{64, 2048, 1 << 20}[pick(3)];  // 64: one plan at a time
  s.options.lanes = static_cast<uint8_t>(1 + pick(4));
  s.options.cache_capacity = pick(4) ? 65'536 : 6;  // small: resets all the time
  s.options.carry_bytes = std::array{0, 256, 8192}[pick(3)];
  s.options.cut_bytes = std::array{1, 60, 300, 1 << 20}[pick(4)];
  s.options.failure_timeout = 200'000'000, s.options.stall_after = 2'000'000;
  s.options.leave_timeout = 50'000'000'000;
  s.options.heartbeats = is_silent(s.fault) || pick(10) == 0;
  return s;
}

void on_hosts_of_eight(Settings& settings, int ranks) {
  settings.ranks = ranks, settings.arity = 8;
  settings.hosts.clear();
  for (int rank = 0; rank < ranks; ++rank) settings.hosts.push_back(rank / 8);
}

void Report::add(const Report& other) {
  steps += other.steps, messages += other.messages, bytes += other.bytes, plans += other.plans;
  handles += other.handles, errors += other.errors, stable_plans += other.stable_plans;
  stalls += other.stalls, asks += other.asks, faults += other.faults, aborts += other.aborts;
  carried += other.carried, ahead += other.ahead;
  unnamed += other.unnamed, epochs += other.epochs, strangers += other.strangers;
  detections.insert(detections.end(), other.detections.begin(), other.detections.end());
  if (failure.empty()) failure = other.failure;
}

Report simulate(const Settings& settings) {
  Report sum, last = Simulation(settings).run();
  sum.add(last);
  Settings next = settings;
  while (next.recovers && last.aborts > 0 && !last.survivors.empty() && sum.failure.empty() &&
         sum.epochs < kMostEpochs) {
    next.seed = next.seed * 1'000'003 + 1;
    next.ranks = static_cast<int>(last.survivors.size());
    next.hosts.clear();
    next.fault = next.seed % 5 < 2 ? Fault::kKill : Fault::kNone;
    next.strangers = true;
    next.phases = 3;
    next.start_within = 20'000'000;
    ++next.epoch;
    next.old_frames = std::move(last.frames);
    last = Simulation(next).run();
    if (!last.failure.empty())
      last.failure = "epoch " + std::to_string(next.epoch) + ": " + last.failure;
    sum.add(last);
  }
  return sum;
}

Simulation::Simulation(const Settings& settings) : settings_(settings), rng_(settings.seed) {
  if (settings_.hosts.empty()) {
    const int per_host = 1 + static_cast<int>(random(3));
    for (Rank r = 0; r < settings_.ranks; ++r) settings_.hosts.push_back(r / per_host);
    settings_.arity = 1 + static_cast<int>(random(4));
  }
  recent_ = settings_.old_frames;
  tree_ = make_tree(settings_.hosts, settings_.arity);
  ranks_.resize(static_cast<size_t>(settings_.ranks));
  for (Rank r = 0; r < settings_.ranks; ++r) {
    Rank_& me = ranks_[static_cast<size_t>(r)];
    const Position& at = tree_[static_cast<size_t>(r)];
    me.names = std::make_unique<NameTable>(3);
    me.lanes.resize(settings_.options.lanes);
    for (const Rank child : at.children) me.links.push_back({child});
    if (at.parent >= 0) me.links.push_back({at.parent});
    members_[0].push_back(r);
  }
}

void Simulation::fail(const std::string& text) {
  if (report_.failure.empty()) report_.failure = text + " at t=" + std::to_string(now_);
}

void Simulation::post(Time at, What what, Rank rank, Rank from, uint64_t value) {
  events_.push({at, order_++, value, rank, from, what});
}

Report Simulation::run() {
  report_.epochs = 1;
  make_scripts();
  for (Rank r = 0; r < settings_.ranks; ++r)
    post(random_time(settings_.start_within), What::kStart, r);
  plan_faults();
  const Time limit = 60'000'000'000;
  while (!events_.empty() && report_.failure.empty() && now_ <= limit) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.at;
    handle(event);
    if (events_.size() < 3 * ranks_.size() + 3 && over()) break;
  }
  if (report_.failure.empty()) final_checks();
  return std::move(report_);
}

bool Simulation::over() const {
  return std::ranges::all_of(ranks_, [](const Rank_& rank) {
    return rank.dead || (rank.closed && rank.done && rank.open.empty());
  });
}

void Simulation::handle(const Event& event) {
  switch (event.what) {
    case What::kDeliver:
      return deliver(event);
    case What::kStranger:
      return stranger(event.rank);
    case What::kStart:
      return start(event.rank);
    case What::kWake:
      return step(event.rank);
    case What::kUser:
      return user(event.rank);
    case What::kTimer: {
      Rank_& me = ranks_[static_cast<size_t>(event.rank)];
      me.timer = INT64_MAX;
      if (!me.dead && !me.closed) wake_soon(event.rank);
      return;
    }
    case What::kLaneDone:
      return lane_done(event.rank, event.value);
    case What::kFault:
      return fault(event.rank);
    case What::kLost:
      return lose(event.rank, event.from);
    case What::kBreak:
      return break_data(event.rank, event.from, 100);
    case What::kVerdict:
      return verdict(event.rank);
  }
}

void Simulation::start(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead) return;
  me.negotiator = std::make_unique<Negotiator>(tree_[static_cast<size_t>(rank)], settings_.ranks,
                                               settings_.epoch, settings_.options, now_);
  me.wake_scheduled = true;
  post(now_, What::kWake, rank);
  post(now_ + random_time(50'000), What::kUser, rank);
}

void Simulation::wake_soon(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (!me.negotiator || std::exchange(me.wake_scheduled, true)) return;
  post(now_ + random_time(20'000), What::kWake, rank);
}

Simulation::Link* Simulation::link(Rank from, Rank to) {
  for (Link& each : ranks_[static_cast<size_t>(from)].links)
    if (each.to == to) return &each;
  return nullptr;
}

// Swaps the frame into the network, so that nothing is copied.
void Simulation::send(Rank rank, Rank to, std::string& bytes) {
  ++report_.messages, report_.bytes += bytes.size();
  if (recent_.size() < kRemembered)
    recent_.push_back(bytes);
  else if (chance(10))
    recent_[random(kRemembered)] = bytes;
  Link& way = *link(rank, to);
  if (way.vanishes || way.cut) return;
  if (free_frames_.empty()) {
    free_frames_.push_back(static_cast<uint32_t>(frames_.size()));
    frames_.emplace_back();
  }
  const uint32_t frame = free_frames_.back();
  free_frames_.pop_back();
  frames_[frame].swap(bytes);
  way.last =
      std::max({way.last, now_ + 999 + random_time(settings_.delay_max), way.restored_at}) + 1;
  post(way.last, What::kDeliver, to, rank, frame);
}

void Simulation::deliver(const Event& event) {
  Rank_& me = ranks_[static_cast<size_t>(event.rank)];
  const auto frame = static_cast<uint32_t>(event.value);
  const Link& way = *link(event.from, event.rank);
  if (way.restored_at > now_)  // it was on its way when the link stood still
    return post(way.restored_at, What::kDeliver, event.rank, event.from, event.value);
  if (me.dead || me.closed || way.loses) {
    free_frames_.push_back(frame);
    return;
  }
  me.messages.emplace_back(event.from, frame);
  wake_soon(event.rank);
}

void Simulation::step(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead) return;
  if (me.paused_until > now_) return post(me.paused_until, What::kWake, rank);
  me.wake_scheduled = false;
  for (const auto& [from, frame] : me.messages) me.inbox.messages.push_back({from, frames_[frame]});
  Outputs& out = out_;
  me.negotiator->step(now_, me.inbox, out);
  me.inbox.clear();
  for (const auto& [from, frame] : me.messages) free_frames_.push_back(frame);
  me.messages.clear();
  ++report_.steps;
  for (auto& each : out.sends) send(rank, each.to, each.bytes);
  for (const Plan& plan : out.plans) plan_arrives(rank, plan);
  for (const auto& result : out.results) result_arrives(rank, result);
  for (const auto& completion : out.completions) {
    if (completion.handle == 0 || completion.handle > operations_.size())
      return fail("unknown handle");
    if (operation(completion.handle).owned)
      return fail("negotiator completed a handle it had given away");
    complete(rank, completion.handle, completion.status, completion.value);
  }
  for (const auto& ask : out.asks)
    if (!chance(30)) me.inbox.answers.push_back({ask.query, "rank " + std::to_string(rank)});
  report_.asks += out.asks.size();
  if (!me.inbox.answers.empty()) wake_soon(rank);
  report_.stalls += out.stalls.size();
  for (const auto& stall : out.stalls) {
    for (const Detail& detail : stall.details)
      if (detail.text != "rank " + std::to_string(detail.rank))
        fail("a stall detail is not its rank's");
    for (const Rank missing : stall.ranks)
      if (missing < 0 || missing >= settings_.ranks) fail("stall names a rank that does not exist");
  }
  if (out.aborted) {
    me.aborted = true, me.aborted_at = now_, ++report_.aborts;
    check_blame(rank, out.why);
    for (auto& lane : me.lanes) lane.clear();
    const auto open = me.open;
    for (const Handle handle : open)
      if (operation(handle).owned) complete(rank, handle, {Code::kPeerLost, "aborted"}, 0);
  }
  if (out.closed) {
    me.closed = true;
    for (const Link& each : me.links) {  // its end comes after all that was sent
      const Link& way = *link(rank, each.to);
      if (!way.vanishes && !way.cut)
        post(std::max({way.last, now_, way.restored_at}) + 1, What::kLost, each.to, rank);
    }
  }
  if (!me.closed && out.wake_at < me.timer) {
    me.timer = out.wake_at;
    post(std::max(out.wake_at, now_ + 1), What::kTimer, rank);
  }
}

void Simulation::user(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.done || me.blocked) return;
  if (me.paused_until > now_) return post(me.paused_until, What::kUser, rank);
  Time next = now_ + random_time(chance(3) ? 2'000'000 : 30'000);
  const Action& action = *me.script[me.pc++];
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
    case Action::Kind::kJoin:
      join(rank, action);
      break;
    case Action::Kind::kWaitAll:
      for (const Handle handle : me.open)
        me.inbox.waits.push_back(operation(handle).address);  // perhaps decided
      me.blocked = !me.open.empty();
      break;
  }
  wake_soon(rank);
  if (me.pc == me.script.size())
    me.done = true;
  else if (!me.blocked)
    post(next, What::kUser, rank);
}

void Simulation::submit(Rank rank, const Action& action, bool again) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  const auto index = static_cast<size_t>(action.set_index);
  if (index >= me.set_ids.size() && action.kind != Action::Kind::kAddSet) return;
  const bool about_sets =
      action.kind == Action::Kind::kAddSet || action.kind == Action::Kind::kRemoveSet;
  Operation_& operation = operations_.emplace_back();
  const Handle handle = operations_.size();
  Submission submission{handle,          about_sets ? 0 : me.set_ids[index],
                        action.name,     action.signature,
                        action.priority, {}};
  if (action.kind == Action::Kind::kRemoveSet)
    submission.signature.root = static_cast<int32_t>(me.set_ids[index]);
  operation.action = &action, operation.instance = again ? -2 : action.instance;
  operation.submitted = now_, operation.count = count_of(action.signature);
  me.submitted.insert(operation.instance);
  submission.values = values_of(action.signature, operation.instance, rank);
  me.open.push_back(handle);
  ++report_.handles;
  if (action.name.empty()) {
    ++report_.unnamed;
    operation.unnamed = std::make_unique<Operation>();
    Operation& product = *operation.unnamed;
    product.request.set = submission.set, product.request.op = action.signature.op;
    product.submission = std::move(submission);
    operation.address = &product.submission;
    const bool its_turn = me.names->begin_unnamed(product);
    operation.name = product.submission.name;
    if (its_turn) me.inbox.requests.push_back(&product.submission);
    return;
  }
  operation.name = action.name;
  operation.submission = std::make_unique<Submission>(std::move(submission));
  operation.address = operation.submission.get();
  me.inbox.requests.push_back(operation.address);
}

void Simulation::join(Rank rank, const Action& action) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  const auto index = static_cast<size_t>(action.set_index);
  if (index >= me.set_ids.size()) return;
  Operation_& operation = operations_.emplace_back();
  operation.instance = -3, operation.submitted = now_, operation.join = true;
  operation.name = "join";
  me.open.push_back(operations_.size());
  ++report_.handles;
  me.joined.insert(me.set_ids[index]);
  me.inbox.joins.push_back({me.set_ids[index], operations_.size()});
}

}  // namespace hora
