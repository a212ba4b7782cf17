#include "launcher/elastic.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <sys/eventfd.h>

namespace hora {

Asks::Asks() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Asks::see(std::string_view key) {
  const auto ask = membership::parse_ask(key);
  if (!ask) return;
  {
    const std::lock_guard lock(mutex_);
    asks_.push_back(*ask);
  }
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event_.get(), &one, sizeof(one));
}

std::vector<membership::Ask> Asks::take() {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_.get(), &count, sizeof(count));
  const std::lock_guard lock(mutex_);
  return std::exchange(asks_, {});
}

Elastic::Elastic(const ElasticPlan& plan, Asks& asks, std::shared_ptr<Store> store, Hands hands,
                 const Clock& clock)
    : asks_(asks),
      store_(std::move(store)),
      hands_(std::move(hands)),
      clock_(clock),
      roster_(plan.roster),
      most_ranks_(plan.roster.max_ranks) {
  if (plan.discovery.script.empty())
    use(plan.hosts);
  else
    discovery_ = std::make_unique<Discovery>(plan.discovery, clock);
}

void Elastic::use(std::vector<Host> hosts) {
  hosts_ = std::move(hosts);
  std::vector<HostSlots> slots;
  for (const Host& host : hosts_) {
    slots.push_back({host.name, std::min(host.slots, most_ranks_)});
    known_.insert_or_assign(host.name, host);
  }
  roster_.slots(clock_.now(), slots);
}

void Elastic::add_to(std::vector<pollfd>& entries) const {
  entries.push_back({asks_.descriptor(), POLLIN, 0});
  if (discovery_) entries.push_back({discovery_->descriptor(), POLLIN, 0});
}

int Elastic::poll_milliseconds() const {
  int64_t at = roster_.wake_at().value_or(INT64_MAX);
  if (discovery_) at = std::min(at, discovery_->wake_at());
  if (at == INT64_MAX) return -1;
  const int64_t left = std::max<int64_t>(at - clock_.now(), 0);
  return static_cast<int>(std::min<int64_t>(left / 1'000'000 + 1, 3'600'000));
}

void Elastic::attend() {
  for (const membership::Ask& ask : asks_.take())
    roster_.asked(clock_.now(), ask.worker, ask.number);
  if (discovery_) take_hosts();
  roster_.tick(clock_.now());
  carry_out();
}

void Elastic::take_hosts() {
  discovery_->attend();
  const auto found = discovery_->take();
  if (!found) return;
  if (!found->ok()) {
    if (!std::exchange(discovery_failing_, true))
      hands_.say(fmt::format("--host-discovery-script: {}; going on with {}",
                             found->status().message(), hosts_.empty() ? "none" : to_text(hosts_)));
    return;
  }
  discovery_failing_ = false;
  if (hosts_ != found->value()) use(std::move(*found).value());
}

void Elastic::host_lost(const std::string& host) {
  roster_.host_lost(clock_.now(), host);
}

void Elastic::ended(int worker, bool well) {
  roster_.ended(clock_.now(), worker, well);
  stops_.erase(worker);
  carry_out();
}

bool Elastic::reaped(pid_t pid, int wait_status) {
  return discovery_ && discovery_->ended(pid, wait_status);
}

void Elastic::carry_out() {
  for (auto actions = roster_.take_actions(); !actions.empty(); actions = roster_.take_actions())
    for (const RosterAction& action : actions) carry_out(action);
}

void Elastic::start(const RosterAction& action) {
  const Status status = hands_.start(action.worker, known_.at(action.host));
  if (status.ok()) return;
  hands_.say(status.message());
  roster_.ended(clock_.now(), action.worker, false);
}

void Elastic::carry_out(const RosterAction& action) {
  using Kind = RosterAction::Kind;
  const auto set = [this](const std::string& key, const std::string& value) {
    // Refused: the rank that waited for a change has left by itself.
    (void)store_->set(key, value);
  };
  switch (action.kind) {
    case Kind::kStart:
      return start(action);
    case Kind::kPlace:
      hands_.place(action.worker, action.place.rank);
      return set(membership::answer_key({action.worker, action.ask}),
                 membership::text_of(action.place));
    case Kind::kLeave:
      return set(membership::answer_key({action.worker, action.ask}), membership::kLeave);
    case Kind::kChange:
      return set(membership::change_key(action.epoch), membership::kChange);
    case Kind::kStop:
      return hands_.kill(action.worker, stops_[action.worker]++ == 0 ? SIGTERM : SIGKILL);
    case Kind::kSay:
    case Kind::kFail:
      return hands_.say(action.text);
  }
}

}  // namespace hora
