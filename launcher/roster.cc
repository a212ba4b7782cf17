#include "launcher/roster.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launcher/hosts.h"

namespace hora {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int kMostDoublings = 10;

std::string times(uint64_t count) {
  return count == 1 ? "once" : fmt::format("{} times", count);
}

}  // namespace

RosterAction& Roster::act(RosterAction::Kind kind, int worker) {
  RosterAction action;
  action.kind = kind;
  action.worker = worker;
  action.epoch = epoch_;
  actions_.push_back(std::move(action));
  return actions_.back();
}

std::vector<RosterAction> Roster::take_actions() {
  return std::exchange(actions_, {});
}

std::optional<int64_t> Roster::wake_at() const {
  return wake_at_;
}

int Roster::count(bool (*of)(const Worker&)) const {
  return static_cast<int>(std::count_if(workers_.begin(), workers_.end(),
                                        [of](const auto& entry) { return of(entry.second); }));
}

int Roster::rank_of(int worker) const {
  if (const auto found = workers_.find(worker); found != workers_.end()) return found->second.rank;
  const auto found = last_ranks_.find(worker);
  return found == last_ranks_.end() ? -1 : found->second;
}

bool Roster::is_dismissed(int worker) const {
  const auto found = workers_.find(worker);
  return found != workers_.end() && found->second.dismissed;
}

void Roster::slots(int64_t now, const std::vector<HostSlots>& hosts) {
  for (HostState& host : hosts_) host.count = 0;
  for (const HostSlots& told : hosts) {
    const auto is_it = [&](const HostState& host) { return host.name == told.host; };
    auto host = std::find_if(hosts_.begin(), hosts_.end(), is_it);
    if (host == hosts_.end()) host = hosts_.insert(hosts_.end(), {told.host, 0, {}});
    host->count += told.count;
    const auto count = static_cast<size_t>(host->count);
    if (host->slots.size() < count) host->slots.resize(count);
  }
  update(now);
}

int Roster::slot_count() const {
  int count = 0;
  for (const HostState& host : hosts_) count += host.count;
  return count;
}

bool Roster::Room::take(size_t host) {
  if (hosts[host] <= 0 || total <= 0) return false;
  --hosts[host];
  --total;
  return true;
}

Roster::Room Roster::room_beside(bool (*of)(const Worker&)) const {
  Room room;
  room.total = options_.max_ranks;
  for (const HostState& host : hosts_) room.hosts.push_back(host.count);
  for (const auto& [number, worker] : workers_)
    if (of(worker)) (void)room.take(worker.host);
  return room;
}

void Roster::host_lost(int64_t now, const std::string& name) {
  for (HostState& host : hosts_)
    for (size_t i = 0; i < host.slots.size() && host.name == name; ++i)
      if (host.slots[i].worker == 0) fail_slot(now, host, i, host.slots[i]);
}

void Roster::fail_slot(int64_t now, const HostState& host, size_t index, Slot& slot) {
  const int64_t doublings = std::min(slot.failures++, kMostDoublings);
  slot.rests_until = now + std::min(options_.cooldown << doublings, options_.longest_cooldown);
  if (!usable(slot) && !over_)
    act(RosterAction::Kind::kSay).text =
        fmt::format("slot {} of {} has failed {} and is not used again (--blacklist-after)", index,
                    host.name, times(slot.failures));
}

void Roster::asked(int64_t now, int worker, uint64_t ask) {
  const auto found = workers_.find(worker);
  if (found == workers_.end()) return;
  if (found->second.dismissed) {
    act(RosterAction::Kind::kLeave, worker).ask = ask;
    return;
  }
  found->second.ask = ask;
  update(now);
}

void Roster::ended(int64_t now, int number, bool well) {
  const auto found = workers_.find(number);
  if (found == workers_.end()) return;
  const Worker worker = found->second;
  workers_.erase(found);
  HostState& host = hosts_[worker.host];
  Slot& slot = host.slots[worker.slot];
  slot.worker = 0;
  last_ranks_[number] = worker.rank;
  if (!worker.dismissed && worker.member && well) {
    ending_ = true;
  } else if (!worker.dismissed) {
    if (first_failed_ == 0 && (worker.member || epoch_ == 0)) first_failed_ = number;
    const int left = count([](const Worker& w) { return w.member; });
    if (!ending_ && left > 0 && worker.member)
      act(RosterAction::Kind::kSay).text =
          fmt::format("rank {} of epoch {} has failed; {} from the last commit", worker.rank,
                      epoch_, left == 1 ? "another goes on" : fmt::format("{} others go on", left));
    fail_slot(now, host, worker.slot, slot);
  }
  update(now);
}

void Roster::tick(int64_t now) {
  update(now);
}

void Roster::update(int64_t now) {
  wake_at_.reset();
  if (over_) return;
  if (epoch_ > 0 && count([](const Worker& w) { return w.member; }) == 0) {
    over_ = true;
    if (!ending_)
      fail(fmt::format("all ranks of epoch {} have failed: nobody has the state any longer",
                       epoch_));
    return;
  }
  drop_candidates(now);
  start_workers(now);
  if (begun_ && epoch_ == 0 && workers_.empty()) {
    fail("all ranks have failed before they had met");
    return;
  }
  try_to_meet(now);
  ask_for_change();
  watch_the_time(now);
}

void Roster::dismiss(int64_t now, int number, Worker& worker) {
  worker.dismissed = true;
  worker.member = false;
  worker.stop_at = now + options_.grace;
  if (worker.ask == 0) return;
  act(RosterAction::Kind::kLeave, number).ask = std::exchange(worker.ask, 0);
}

/// Workers that are not members yet lose their place at once; members do when all meet again.
void Roster::drop_candidates(int64_t now) {
  Room room = room_beside([](const Worker& w) { return w.member; });
  for (auto& [number, worker] : workers_) {
    if (!worker.dismissed && !worker.member && (ending_ || !room.take(worker.host))) {
      dismiss(now, number, worker);
      worker.stop_at = now;
    }
    if (!worker.dismissed) continue;
    if (worker.stop_at <= now) {
      act(RosterAction::Kind::kStop, number);
      worker.stop_at = now + std::max<int64_t>(options_.grace, kSecond);
    }
    wake_at_ = std::min(wake_at_.value_or(INT64_MAX), worker.stop_at);
  }
}

/// Slots that rest are waited for only where no others are left.
void Roster::start_workers(int64_t now) {
  if (ending_) return;
  begun_ = begun_ || slot_count() >= options_.start_ranks;
  if (!begun_) return;
  Room room = room_beside([](const Worker& w) { return !w.dismissed; });
  for (const bool resting : {false, true}) {
    for (size_t h = 0; h < hosts_.size(); ++h) {
      for (size_t i = 0; i < static_cast<size_t>(hosts_[h].count); ++i) {
        const Slot& slot = hosts_[h].slots[i];
        const bool fits = slot.worker == 0 && usable(slot) && (slot.rests_until > now) == resting;
        if (!fits || !room.take(h)) continue;
        if (resting)
          wake_at_ = std::min(wake_at_.value_or(INT64_MAX), slot.rests_until);
        else
          start_worker(h, i);
      }
    }
  }
}

void Roster::start_worker(size_t host, size_t slot) {
  Worker& worker = workers_[++last_worker_];
  worker.host = host;
  worker.slot = slot;
  hosts_[host].slots[slot].worker = last_worker_;
  act(RosterAction::Kind::kStart, last_worker_).host = hosts_[host].name;
}

/// The ranks of the current epoch have to meet again when they are more than their host's slots, or
/// when a new worker is ready: not earlier, so that nobody waits while it starts.
void Roster::ask_for_change() {
  if (epoch_ == 0 || ending_ || changed_ == epoch_) return;
  const int new_ones = count([](const Worker& w) { return !w.member && w.ask != 0; });
  if (new_ones == 0 && !must_shrink()) return;
  changed_ = epoch_;
  act(RosterAction::Kind::kChange);
}

/// Has everybody asked on whom the next epoch depends? Before the first one that is every worker.
bool Roster::may_meet() const {
  bool any = false;
  for (const auto& [number, worker] : workers_) {
    if (worker.dismissed || (epoch_ > 0 && !worker.member)) continue;
    if (worker.ask == 0) return false;
    any = true;
  }
  return any;
}

bool Roster::must_shrink() const {
  const auto is_member = [](const Worker& w) { return w.member; };
  return static_cast<int>(next_members(is_member).size()) < count(is_member);
}

/// The order of the next ranks, of those who take part and have a slot.
std::vector<int> Roster::next_members(bool (*takes_part)(const Worker&)) const {
  std::vector<int> first(hosts_.size(), INT32_MAX);  // old rank on each host
  std::vector<int> asked;
  for (const auto& [number, worker] : workers_) {
    if (worker.dismissed || !takes_part(worker)) continue;
    asked.push_back(number);
    if (worker.member) first[worker.host] = std::min(first[worker.host], worker.rank);
  }
  const auto order = [&](int number) {
    const Worker& worker = workers_.at(number);
    return std::tuple(first[worker.host], worker.host, worker.member ? worker.rank : INT32_MAX,
                      number);
  };
  std::sort(asked.begin(), asked.end(), [&](int a, int b) { return order(a) < order(b); });
  if (ending_) return asked;
  Room room = room_beside([](const Worker&) { return false; });
  std::vector<int> next;
  std::copy_if(asked.begin(), asked.end(), std::back_inserter(next),
               [&](int number) { return room.take(workers_.at(number).host); });
  // When all members have lost their slots, one stays until others have its state.
  const auto is_member = [this](int number) { return workers_.at(number).member; };
  if (!next.empty() && is_member(asked[0]) && std::none_of(next.begin(), next.end(), is_member))
    next.insert(next.begin(), asked[0]);
  return next;
}

std::vector<Place> Roster::places_of(const std::vector<int>& members) const {
  std::vector<Host> hosts;
  for (const int number : members) {
    const std::string& name = hosts_[workers_.at(number).host].name;
    if (hosts.empty() || hosts.back().name != name) hosts.push_back({name, 0, {}});
    ++hosts.back().slots;
  }
  const auto size = static_cast<int>(members.size());
  const auto ranks = place_ranks(hosts, size);
  HORA_CHECK(ranks.ok(), ranks.status().message());
  std::vector<Place> places;
  for (const RankPlace& at : ranks.value())
    places.push_back({epoch_, static_cast<int>(places.size()), size, at.local_rank, at.local_size,
                      at.cross_rank, at.cross_size});
  return places;
}

void Roster::try_to_meet(int64_t now) {
  if (!may_meet()) return;
  const std::vector<int> next = next_members([](const Worker& w) { return w.ask != 0; });
  const int least = ending_ ? 1 : epoch_ == 0 ? options_.start_ranks : options_.min_ranks;
  // A slot may have failed before the first meeting: then the minimum has to do.
  const int enough = first_failed_ != 0 ? std::min(least, options_.min_ranks) : least;
  if (static_cast<int>(next.size()) < enough) return;
  if (epoch_ > options_.reset_limit) {
    fail(fmt::format("the ranks have met again {}, which is the limit (--reset-limit)",
                     times(options_.reset_limit)));
    return;
  }
  ++epoch_;
  waiting_since_ = -1;
  first_failed_ = 0;
  last_ranks_.clear();
  for (auto& [number, worker] : workers_) {
    const bool stays = std::find(next.begin(), next.end(), number) != next.end();
    if (worker.member && !stays) dismiss(now, number, worker);
    worker.member = stays;
  }
  for (const Place& place : places_of(next)) {
    const int number = next[static_cast<size_t>(place.rank)];
    Worker& worker = workers_.at(number);
    worker.rank = place.rank;
    RosterAction& action = act(RosterAction::Kind::kPlace, number);
    action.ask = std::exchange(worker.ask, 0);
    action.place = place;
  }
  const size_t size = next.size();
  if (epoch_ > 1)
    act(RosterAction::Kind::kSay).text =
        fmt::format("epoch {} begins with {} rank{}", epoch_, size, size == 1 ? "" : "s");
}

std::string Roster::why_too_few() const {
  std::vector<std::string> reasons;
  if (options_.slots_may_change) reasons.push_back(fmt::format("slots found: {}", slot_count()));
  int64_t lost = 0;
  for (const HostState& host : hosts_)
    lost += std::count_if(host.slots.begin(), host.slots.end(),
                          [this](const Slot& slot) { return !usable(slot); });
  if (lost > 0) reasons.push_back(fmt::format("slots that failed too often: {}", lost));
  std::vector<int> late;
  for (const auto& [number, worker] : workers_)
    if (worker.member && worker.ask == 0) late.push_back(worker.rank);
  if (!late.empty() && late.size() < workers_.size())
    reasons.push_back(
        fmt::format("ranks that did not come to meet again: {}", fmt::join(late, ", ")));
  return reasons.empty() ? "" : fmt::format(" ({})", fmt::join(reasons, "; "));
}

/// Who lets the others wait for too long is not waited for any more, if they are enough and one of
/// them has the state. It may hang, or be stopped.
bool Roster::drop_late_members(int64_t now) {
  const bool has_state = std::any_of(workers_.begin(), workers_.end(), [](const auto& entry) {
    return entry.second.member && entry.second.ask != 0;
  });
  const int ready = count([](const Worker& w) { return !w.dismissed && w.ask != 0; });
  if (!has_state || ready < (ending_ ? 1 : options_.min_ranks)) return false;
  bool any = false;
  for (auto& [number, worker] : workers_) {
    if (!worker.member || worker.ask != 0) continue;
    act(RosterAction::Kind::kSay).text = fmt::format(
        "rank {} did not come to meet the others again for {} s (--elastic-timeout); it is ended "
        "and they go on without it",
        worker.rank, options_.timeout / kSecond);
    dismiss(now, number, worker);
    worker.stop_at = now;
    any = true;
  }
  return any;
}

/// Fails the job if too few ranks are there for too long, or can never be.
void Roster::watch_the_time(int64_t now) {
  if (over_) return;
  const int members = count([](const Worker& w) { return w.member; });
  const bool asked = std::any_of(workers_.begin(), workers_.end(), [](const auto& entry) {
    return entry.second.member && entry.second.ask != 0;
  });
  const bool too_few = !ending_ && (epoch_ == 0 || members < options_.min_ranks);
  if (!asked && !too_few) {
    waiting_since_ = -1;
    return;
  }
  const int ready = count([](const Worker& w) { return !w.dismissed && w.ask != 0; });
  int possible = 0;
  for (const HostState& host : hosts_)
    for (const Slot& slot : host.slots) possible += slot.worker != 0 || usable(slot) ? 1 : 0;
  if (too_few && !options_.slots_may_change && possible < options_.min_ranks) {
    fail(fmt::format("{} rank{} left, fewer than --min-np {}, and no slot to start another{}",
                     members, members == 1 ? " is" : "s are", options_.min_ranks, why_too_few()));
    return;
  }
  if (waiting_since_ < 0) waiting_since_ = now;
  const int64_t until = waiting_since_ + options_.timeout;
  if (now >= until && drop_late_members(now)) return update(now);
  if (now >= until)
    fail(fmt::format("{} of at least {} ranks were ready to go on for {} s (--elastic-timeout){}",
                     ready, epoch_ == 0 ? options_.start_ranks : options_.min_ranks,
                     options_.timeout / kSecond, why_too_few()));
  else
    wake_at_ = std::min(wake_at_.value_or(INT64_MAX), until);
}

void Roster::fail(std::string text) {
  over_ = failed_ = true;
  act(RosterAction::Kind::kFail).text = std::move(text);
}

}  // namespace hora
