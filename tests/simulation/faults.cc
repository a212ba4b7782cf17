// What goes wrong, and who may be blamed for it.
#include <algorithm>
#include <cstring>

#include "tests/simulation/simulation.h"

namespace hora {
namespace {

constexpr Time kHorizon = 20'000'000;    ///< faults happen within it
constexpr Time kNoticeWithin = 500'000;  ///< how long a closed connection takes to be noticed
constexpr size_t kEpochAt = 8;           ///< in a frame's header

// The rank that noticed it, as the cause says, or -1.
Rank witness_in(const std::string& cause) {
  constexpr std::string_view kWords = "(noticed by rank ";
  const size_t at = cause.find(kWords);
  return at == std::string::npos ? -1 : std::atoi(cause.c_str() + at + kWords.size());
}

}  // namespace

void Simulation::plan_faults() {
  const auto soon = [&] { return random_time(kHorizon + settings_.start_within); };
  using enum Fault;
  const Fault kind = settings_.fault;
  uint64_t times = kind == kNone || kind == kLeaveEarly ? 0 : 1;
  if (kind == kKill || kind == kPause) times += random(2);
  for (; times > 0; --times) post(soon(), What::kFault, any_rank());
  if (settings_.strangers)
    for (int i = 0; i < 6; ++i) post(soon(), What::kStranger, any_rank());
}

void Simulation::fault(Rank rank) {
  switch (settings_.fault) {
    case Fault::kNone:
    case Fault::kLeaveEarly:
      return;
    case Fault::kKill:
      return kill(rank);
    case Fault::kKillHost:
      for (Rank each = 0; each < settings_.ranks; ++each)
        if (settings_.hosts[static_cast<size_t>(each)] ==
            settings_.hosts[static_cast<size_t>(rank)])
          kill(each);
      return;
    case Fault::kPause:
      return pause(rank);
    case Fault::kSuspend:
      return suspend();
    case Fault::kCut:
    case Fault::kVanish:
    case Fault::kOutage:
      return part();
    case Fault::kDataError:
      if (ranks_[static_cast<size_t>(rank)].closed) return;
      guilty_.insert(rank);
      happened();
      return break_data(rank, rank, 100);
  }
}

// The data plane gives up by itself where the control plane has closed in good order before.
void Simulation::happened() {
  faulty_ = true, last_fault_ = now_, ++report_.faults;
  for (Rank r = 0; r < settings_.ranks; ++r)
    post(now_ + settings_.options.failure_timeout * 3 / 2, What::kVerdict, r);
}

void Simulation::kill(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.closed) return;
  me.dead = true;
  guilty_.insert(rank);
  happened();
  for (Link& way : me.links) {
    way.loses = chance(50);
    post(now_ + random_time(kNoticeWithin), What::kLost, way.to, rank);
  }
  for (Rank other = 0; other < settings_.ranks; ++other) break_data(other, rank, 50);
}

// The rank's data connection to another breaks, now or soon.
void Simulation::break_data(Rank rank, Rank with, int percent) {
  if (percent < 100) {
    if (chance(percent)) post(now_ + random_time(kNoticeWithin), What::kBreak, rank, with);
    return;
  }
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.aborted) return;
  me.broken.insert(with);
  for (size_t lane = 0; lane < me.lanes.size(); ++lane)
    if (!me.lanes[lane].empty() && broken(rank, me.lanes[lane].front())) lane_fails(rank, lane);
}

void Simulation::pause(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.closed || me.paused_until > 0) return;
  const Time timeout = settings_.options.failure_timeout;
  const bool lethal = chance(50);
  me.paused_until = now_ + (lethal ? 2 * timeout : random_time(timeout * 6 / 10));
  if (!lethal) return void(++report_.faults);
  guilty_.insert(rank);
  happened();
}

void Simulation::suspend() {
  ++report_.faults;
  for (Rank_& each : ranks_) each.paused_until = now_ + 5 * settings_.options.failure_timeout;
}

// The ranks fall into two parts; what happens to the links between them depends on the fault.
void Simulation::part() {
  side_.assign(ranks_.size(), false);
  const bool alone = chance(50);
  const auto one = random(ranks_.size());
  std::map<int, bool> of_host;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const auto host = of_host.try_emplace(settings_.hosts[r], chance(50)).first;
    side_[r] = alone ? r == one : host->second;
  }
  const bool harmless = settings_.fault == Fault::kOutage && chance(50);
  const bool one_way = chance(30);
  const Time timeout = settings_.options.failure_timeout;
  const Time length =
      harmless ? random_time(timeout * 6 / 10) : timeout * 3 / 2 + random_time(timeout);
  bool any = false;
  for (size_t r = 0; r < ranks_.size(); ++r)
    for (Link& way : ranks_[r].links) {
      if (side_[r] == side_[static_cast<size_t>(way.to)]) continue;
      any = true;
      const auto from = static_cast<Rank>(r);
      if (settings_.fault == Fault::kOutage)  // after all that is on its way, for its order
        way.restored_at = std::max(now_ + length, way.last + 2);
      if (settings_.fault == Fault::kVanish) way.vanishes = !one_way || side_[r];
      if (settings_.fault == Fault::kCut) cut(way, from);
    }
  if (!any) return side_.clear();
  if (harmless) return void(++report_.faults);
  happened();
  if (settings_.fault != Fault::kCut) return;
  for (Rank a = 0; a < settings_.ranks; ++a)
    for (Rank b = 0; b < settings_.ranks; ++b)
      if (side_[static_cast<size_t>(a)] != side_[static_cast<size_t>(b)]) break_data(a, b, 20);
}

void Simulation::cut(Link& link, Rank from) {
  link.cut = true, link.loses = chance(50);
  post(now_ + random_time(kNoticeWithin), What::kLost, link.to, from);
}

// The end of a connection. In good order it comes after all that was sent.
void Simulation::lose(Rank rank, Rank lost) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.closed) return;
  const Link& way = *link(lost, rank);
  if (way.restored_at > now_) return post(way.restored_at, What::kLost, rank, lost);
  const bool dead = ranks_[static_cast<size_t>(lost)].dead;
  me.inbox.lost.push_back({lost, dead ? "its process ended" : "connection closed"});
  wake_soon(rank);
}

// The control plane had its time to name the cause of a data error.
void Simulation::verdict(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.aborted) return;
  if (me.paused_until > now_) return post(me.paused_until, What::kVerdict, rank);
  if (me.closed) {
    const auto open = me.open;
    for (const Handle handle : open) complete(rank, handle, {Code::kPeerLost, "no data"}, 0);
    return;
  }
  if (me.failed.empty()) return;
  me.inbox.lost.push_back({rank, "'" + me.failed + "' failed here"});
  wake_soon(rank);
}

// A frame of another epoch, as a neighbor might have sent it: nothing must come of it.
void Simulation::stranger(Rank rank) {
  Rank_& me = ranks_[static_cast<size_t>(rank)];
  if (me.dead || me.closed || recent_.empty() || me.links.empty()) return;
  std::string bytes = recent_[random(recent_.size())];
  uint32_t epoch = 0;
  std::memcpy(&epoch, bytes.data() + kEpochAt, sizeof epoch);
  if (epoch == settings_.epoch) epoch += chance(50) ? 1u : ~0u;
  std::memcpy(bytes.data() + kEpochAt, &epoch, sizeof epoch);
  frames_.push_back(std::move(bytes));
  me.messages.emplace_back(me.links[random(me.links.size())].to,
                           static_cast<uint32_t>(frames_.size() - 1));
  ++report_.strangers;
  wake_soon(rank);
}

void Simulation::check_blame(Rank rank, const Abort& why) {
  const std::string who = "rank " + std::to_string(rank);
  const std::string whom = std::to_string(why.culprit) + ": " + why.cause;
  if (why.cause.starts_with("protocol")) return fail(who + " aborts: " + why.cause);
  if (side_.empty()) {
    if (!guilty_.contains(why.culprit)) fail(who + " blames innocent rank " + whom);
    return;
  }
  // A broken link has two ends, and neither is guilty: the error must name both, and the one that
  // noticed it is on this side.
  const Rank witness = witness_in(why.cause);
  if (witness < 0 || witness >= settings_.ranks || !link(witness, why.culprit) ||
      side_[static_cast<size_t>(witness)] == side_[static_cast<size_t>(why.culprit)])
    return fail(who + " blames no broken link, but rank " + whom);
  if (settings_.fault == Fault::kCut &&
      side_[static_cast<size_t>(witness)] != side_[static_cast<size_t>(rank)])
    fail(who + " believes the other side about rank " + whom);
}

// Whoever is alive must know soon, whatever it was.
void Simulation::check_detection() {
  const Time timeout = settings_.options.failure_timeout;
  const bool told = settings_.fault == Fault::kKill || settings_.fault == Fault::kKillHost ||
                    settings_.fault == Fault::kCut;
  // A rank that was stopped for a while begins to count anew, and one that starts late to count.
  const Time most =
      settings_.start_within + (told                               ? timeout / 10
                                : settings_.fault == Fault::kPause ? timeout * 2
                                                                   : timeout * 13 / 10);
  if (settings_.fault == Fault::kDataError) return;  // it begins when a lane meets it
  for (Rank r = 0; r < settings_.ranks; ++r) {
    const Rank_& me = ranks_[static_cast<size_t>(r)];
    if (!me.aborted || me.dead || guilty_.contains(r) || me.aborted_at < last_fault_) continue;
    const Time took = me.aborted_at - last_fault_;
    report_.detections.push_back(took);
    if (took > most) fail("rank " + std::to_string(r) + " noticed after " + std::to_string(took));
  }
}

}  // namespace hora
