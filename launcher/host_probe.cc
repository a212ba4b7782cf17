#include "launcher/host_probe.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "launcher/host_options.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReachTime{4000}, kAnswerTime{4000};
constexpr int kRoundTrips = 10, kLoads = 4;
constexpr size_t kLoadBytes = size_t{1} << 20;  // the most that a store takes at once

}  // namespace

Result<std::unique_ptr<HostProbe>> HostProbe::open(const StoreKey& key) {
  const auto name = random_secret();  // in no folder, so any that nobody has
  HORA_TRY(name.status());
  StoreServer::Network network;
  network.key = key;
  auto server = StoreServer::start("@hora-doctor-" + name.value().substr(0, 16), {}, &network);
  HORA_TRY(server.status());
  return std::make_unique<HostProbe>(std::move(server).value(), key);
}

agent_wire::Reached HostProbe::reach(const agent_wire::Reach& other, const Clock& clock) const {
  agent_wire::Reached result{other.to, {}, 0, 0};
  const auto failed = [&](const Status& status) {
    result.failure = status.message();
    return result;
  };
  const auto store = connect_store(other.store, kReachTime, key_);
  if (!store.ok()) return failed(store.status());
  const auto name = random_secret();
  if (!name.ok()) return failed(name.status());
  if (const Status status = store.value()->set(name.value(), ""); !status.ok())
    return failed(status);
  int64_t shortest = INT64_MAX;
  for (int i = 0; i < kRoundTrips; ++i) {
    const int64_t begin = clock.now();
    const auto value = store.value()->get(name.value(), kAnswerTime);
    if (!value.ok()) return failed(value.status());
    shortest = std::min(shortest, clock.now() - begin);
  }
  result.round_trip_ns = static_cast<uint64_t>(shortest);
  const std::string load(kLoadBytes, 'x');
  const int64_t begin = clock.now();
  for (int i = 0; i < kLoads; ++i)  // of many hosts, a store has no room for all
    if (!store.value()->set(fmt::format("{}/{}", name.value(), i), load).ok()) return result;
  const auto nanoseconds = static_cast<double>(std::max<int64_t>(1, clock.now() - begin));
  result.bytes_per_second = static_cast<uint64_t>(1e9 * kLoads * kLoadBytes / nanoseconds);
  return result;
}

}  // namespace hora
