#include "runtime/bootstrap.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "ops/kernels/reduce.h"
#include "ops/local/local.h"
#include "ops/plugin.h"
#include "ops/shm/shm.h"
#include "runtime/shm_channel.h"
#include "runtime/store.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

milliseconds milliseconds_of(double seconds) {
  return milliseconds(static_cast<int64_t>(seconds * 1e3));
}

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

/// What a rank tells the others of itself: "host\npid\n" and the settings that must be equal.
std::string introduction(const Config& config) {
  return fmt::format("{}\n{}\n{}", host_name(), ::getpid(), digest_text(config));
}

std::string_view take_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(text.size(), end + 1));
  return line;
}

Status compare(Rank theirs, std::string_view their_settings, Rank mine,
               std::string_view my_settings) {
  while (!their_settings.empty() || !my_settings.empty()) {
    const std::string_view a = take_line(my_settings), b = take_line(their_settings);
    if (a != b)
      return Status(Code::kMismatch,
                    fmt::format("rank {} has {}, rank {} has {}: this setting must be equal on all "
                                "ranks",
                                mine, a, theirs, b));
  }
  return {};
}

/// Fills world.members from everybody's introduction.
Status introduce(Store& store, const Config& config, const std::string& prefix, const Clock& clock,
                 World& world) {
  const std::string mine = introduction(config);
  HORA_TRY(store.set(prefix + std::to_string(config.rank), mine));
  std::string_view my_settings = mine;
  take_line(my_settings), take_line(my_settings);
  const Deadline deadline(clock, milliseconds_of(config.start_timeout));
  std::string missing;
  for (Rank rank = 0; rank < config.size; ++rank) {
    const auto left = std::max(milliseconds(deadline.poll_milliseconds()), milliseconds(1));
    auto got = store.get(prefix + std::to_string(rank), left);
    if (!got.ok() && got.status().code() == Code::kTimeout) {
      missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
      continue;
    }
    if (!got.ok()) return got.status();
    std::string_view text = got.value();
    Member& member = world.members[static_cast<size_t>(rank)];
    member.id = static_cast<uint64_t>(rank) + 1;
    member.host = take_line(text);
    member.pid = std::atoi(std::string(take_line(text)).c_str());
    HORA_TRY(compare(rank, text, config.rank, my_settings));
  }
  if (missing.empty()) return {};
  return Status(Code::kTimeout,
                fmt::format("rank {}: waited {} s for ranks {} of {} to start (HORA_START_TIMEOUT)",
                            config.rank, config.start_timeout, missing, config.size));
}

World world_of(const Config& config) {
  World world;
  world.epoch = config.epoch;
  world.rank = config.rank;
  world.members.resize(static_cast<size_t>(config.size));
  world.local_rank = config.local_rank;
  world.local_size = config.local_size;
  world.cross_rank = config.cross_rank;
  world.cross_size = config.cross_size;
  return world;
}

Transport alone(const Config& config) {
  Transport transport = std::move(meet_locally(1)[0]);
  transport.world = world_of(config);
  transport.world.rank = 0;
  transport.world.members = {Member{1, host_name(), static_cast<int32_t>(::getpid())}};
  return transport;
}

/// Connects to the job's store. Where nobody else serves one rank 0 does, as long as `server`
/// lives; each epoch has its own, since rank 0 may begin the next while others still end the last.
Result<std::shared_ptr<Store>> find_store(const Config& config, std::shared_ptr<void>& server) {
  const milliseconds timeout = milliseconds_of(config.start_timeout);
  if (!config.serves_store) return connect_store(config.store, timeout);
  const std::string address = fmt::format("{}-{}", config.store, config.epoch);
  if (config.rank == 0) {
    auto started = StoreServer::start(address.substr(std::string_view("unix:").size()));
    if (!started.ok()) return started.status();
    server = std::move(started).value();
  }
  auto connected = connect_store(address, timeout);
  if (!connected.ok() && connected.status().code() == Code::kUnavailable)
    return Status(Code::kTimeout,
                  fmt::format("rank {}: waited {} s for rank 0 of {} to start (HORA_START_TIMEOUT)",
                              config.rank, config.start_timeout, config.size));
  return connected;
}

/// All ranks that the control tree joins to this one: with one host, its leader or everybody.
std::vector<Rank> links_of(const Config& config) {
  if (config.rank != 0) return {0};
  std::vector<Rank> others(static_cast<size_t>(config.size) - 1);
  std::iota(others.begin(), others.end(), 1);
  return others;
}

}  // namespace

std::vector<Transport> meet_locally(int size) {
  auto channels = make_local_channels(size);
  auto hub = local::make_hub(size);
  const auto bells = bells_of(*channels);
  std::vector<Transport> transports(static_cast<size_t>(size));
  for (Rank rank = 0; rank < size; ++rank) {
    Transport& transport = transports[static_cast<size_t>(rank)];
    transport.world.rank = rank;
    transport.world.local_rank = rank;
    transport.world.local_size = size;
    for (Rank other = 0; other < size; ++other)
      transport.world.members.push_back(
          {static_cast<uint64_t>(other) + 1, host_name(), static_cast<int32_t>(::getpid())});
    transport.hosts.assign(static_cast<size_t>(size), 0);
    transport.channel = open_local_channel(channels, rank);
    transport.backend = local::open(hub, rank, bells);
  }
  return transports;
}

Result<Transport> meet(const Config& config, const Clock& clock) {
  if (!choose_isa(config.isa))
    return Status(Code::kUnavailable,
                  fmt::format("HORA_ISA={}: this machine does not have it", config.isa));
  if (config.tls != 0)
    return Status(Code::kUnavailable,
                  "HORA_TLS=1: there is no encryption between hosts yet; unset it");
  if (config.size == 1) return alone(config);
  if (config.backend == "tcp")
    return Status(Code::kUnavailable, "HORA_BACKEND=tcp: there is no such backend yet; unset it");
  Transport transport;
  auto connected = find_store(config, transport.keep);
  if (!connected.ok()) return connected.status();
  const std::shared_ptr<Store> store = std::move(connected).value();

  const std::string prefix = fmt::format("epoch{}/", config.epoch);
  transport.world = world_of(config);
  transport.hosts.assign(static_cast<size_t>(config.size), 0);
  HORA_TRY(introduce(*store, config, prefix + "member/", clock, transport.world));

  const auto publish = [store, prefix](std::string_view key, std::string_view value) {
    return store->set(prefix + std::string(key), value);
  };
  const auto lookup = [store, prefix](std::string_view key, milliseconds timeout) {
    return store->get(prefix + std::string(key), timeout);
  };
  shm::Neighborhood::Options options;
  options.job = config.job;
  options.epoch = config.epoch;
  options.rank = config.rank;
  options.ranks.resize(static_cast<size_t>(config.size));
  std::iota(options.ranks.begin(), options.ranks.end(), 0);
  options.lanes = config.lanes;
  options.arena_limit = config.arena_bytes;
  options.timeout = milliseconds_of(config.start_timeout);
  options.links = links_of(config);
  auto met = shm::Neighborhood::meet(options, publish, lookup);
  if (!met.ok()) return met.status();
  const std::shared_ptr<shm::Neighborhood> neighborhood = std::move(met).value();
  transport.channel = open_shm_channel(neighborhood);
  if (config.backend != "gloo") {
    transport.backend = shm::open(neighborhood);
    return transport;
  }
  PluginContext context;
  context.rank = config.rank;
  context.size = config.size;
  context.job = fmt::format("{}/{}", config.job, config.epoch);
  context.isa = config.isa;
  context.setup_timeout = milliseconds_of(config.start_timeout);
  context.publish = publish;
  context.lookup = lookup;
  context.ring = [bell = transport.channel->bell()] { bell.ring(); };
  auto loaded = load_backend("gloo", context);
  if (!loaded.ok()) return loaded.status();
  transport.backend = std::move(loaded).value();
  return transport;
}

}  // namespace hora
