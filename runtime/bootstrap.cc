#include "runtime/bootstrap.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "ops/hierarchical/hierarchical.h"
#include "ops/kernels/reduce.h"
#include "ops/local/local.h"
#include "ops/plugin.h"
#include "ops/shm/shm.h"
#include "ops/tcp/endpoint.h"
#include "ops/tcp/tcp.h"
#include "runtime/compression.h"
#include "runtime/introduction.h"
#include "runtime/links.h"
#include "runtime/log.h"
#include "runtime/quantity.h"
#include "runtime/shm_channel.h"
#include "runtime/store.h"
#include "runtime/tcp_channel.h"
#include "runtime/tree.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

// Of measuring links: what all bursts of a host take together, and how long it waits for others.
constexpr std::chrono::nanoseconds kProbeTime = milliseconds(160);
constexpr std::chrono::nanoseconds kProbePatience = milliseconds(1000);

milliseconds milliseconds_of(double seconds) {
  return milliseconds(static_cast<int64_t>(seconds * 1e3));
}

World world_of(const Config& config) {
  World world;
  world.epoch = config.epoch;
  world.rank = config.rank;
  world.local_rank = config.local_rank;
  world.local_size = config.local_size;
  world.cross_rank = config.cross_rank;
  world.cross_size = config.cross_size;
  return world;
}

World world_of(const Config& config, const std::vector<Introduction>& ranks,
               const std::vector<int>& hosts) {
  World world = world_of(config);
  for (const Introduction& rank : ranks)
    world.members.push_back({world.members.size() + 1, rank.host, rank.pid});
  const auto me = static_cast<size_t>(config.rank);
  const int count = *std::max_element(hosts.begin(), hosts.end()) + 1;
  if (count == 1) return world;  // a launcher may have its own idea of places on one host
  world.cross_rank = hosts[me];
  world.cross_size = count;
  const auto place = hosts.begin() + static_cast<std::ptrdiff_t>(me);
  world.local_rank = static_cast<int>(std::count(hosts.begin(), place, hosts[me]));
  world.local_size = static_cast<int>(std::count(hosts.begin(), hosts.end(), hosts[me]));
  return world;
}

Transport alone(const Config& config, const AutoChoices& choices) {
  Transport transport = std::move(meet_locally(1)[0]);
  transport.chosen = choices;
  transport.world = world_of(config);
  transport.world.rank = 0;
  transport.world.members = {Member{1, host_name(), static_cast<int32_t>(::getpid())}};
  return transport;
}

/// Where rank 0 serves in this epoch: each has its own place, since rank 0 may begin the next while
/// others still end the last.
struct ServedStore {
  std::string address;  ///< for the other ranks
  std::string path;     ///< of the unix socket
  uint16_t port = 0;    ///< 0: ranks of this host only
};

Result<ServedStore> served_store(const Config& config) {
  constexpr std::string_view kUnix = "unix:";
  if (config.store.starts_with(kUnix)) {
    const std::string address = fmt::format("{}-{}", config.store, config.epoch);
    return ServedStore{address, address.substr(kUnix.size()), 0};
  }
  const size_t colon = config.store.rfind(':');
  const auto first = parse_integer(std::string_view(config.store).substr(colon + 1));
  const uint64_t port = first.value_or(0) + config.epoch - 1;
  if (!first || *first == 0 || port > UINT16_MAX)
    return Status(Code::kInvalidArgument,
                  fmt::format("HORA_STORE={}: expected tcp://HOST:PORT, where rank 0 serves the "
                              "store (and at the next ports when it starts again)",
                              config.store));
  return ServedStore{fmt::format("{}:{}", config.store.substr(0, colon), port),
                     fmt::format("@hora-{}-{}-{}", ::geteuid(), config.job, port),
                     static_cast<uint16_t>(port)};
}

Result<std::shared_ptr<void>> serve_store(const Config& config, const ServedStore& place) {
  StoreServer::Network network;
  network.key = key_of(config);
  network.bind = config.address;
  network.port = place.port;
  network.warn = [log = Log(config)](const std::string& text) { log.warning("{}", text); };
  auto started = StoreServer::start(place.path, {}, place.port != 0 ? &network : nullptr);
  if (!started.ok() && place.port != 0)
    return Status(started.status().code(),
                  fmt::format("rank 0 serves the store at {}: {}; HORA_STORE=tcp://HOST:PORT is "
                              "for another port",
                              place.address, started.status().message()));
  if (!started.ok()) return started.status();
  return std::shared_ptr<void>(std::move(started).value());
}

/// Connects to the job's store. Where nobody else serves rank 0 does, as long as `server` lives.
Result<std::shared_ptr<Store>> find_store(const Config& config, std::shared_ptr<void>& server) {
  const milliseconds timeout = milliseconds_of(config.start_timeout);
  const StoreKey key = key_of(config);
  if (!config.serves_store) return connect_store(config.store, timeout, key);
  const auto place = served_store(config);
  HORA_TRY(place.status());
  if (config.rank == 0) {
    auto started = serve_store(config, place.value());
    HORA_TRY(started.status());
    server = std::move(started).value();
    return connect_store("unix:" + place.value().path, timeout);
  }
  auto connected = connect_store(place.value().address, timeout, key);
  if (connected.ok() || connected.status().code() != Code::kUnavailable) return connected;
  if (place.value().port != 0)
    return Status(
        Code::kTimeout,
        fmt::format("rank {}: rank 0 of {} was not reached, which serves the store: {} "
                    "(HORA_START_TIMEOUT={} s)",
                    config.rank, config.size, connected.status().message(), config.start_timeout));
  return Status(Code::kTimeout,
                fmt::format("rank {}: waited {} s for rank 0 of {} to start (HORA_START_TIMEOUT)",
                            config.rank, config.start_timeout, config.size));
}

/// Ranks of several hosts have the secret from whoever started them. Ranks of one host that find
/// each other over a unix socket, which no other user can use, agree on one there.
Result<tcp::Secret> find_secret(Store& store, const Config& config, const std::string& prefix) {
  if (!config.secret.empty() || !config.store.starts_with("unix:"))
    return tcp::parse_secret(config.secret);
  const std::string key = prefix + "secret";
  if (config.rank == 0) {
    std::string digits;
    for (const uint8_t byte : tcp::fresh_nonce()) digits += fmt::format("{:02x}", byte);
    HORA_TRY(store.set(key, digits));
  }
  const auto digits = store.get(key, milliseconds_of(config.start_timeout));
  if (!digits.ok()) return digits.status();
  return tcp::parse_secret(digits.value());
}

/// Where this rank meets ranks of other hosts; none if all are surely on one.
Result<std::shared_ptr<tcp::Endpoint>> open_endpoint(Store& store, const Config& config,
                                                     const std::string& prefix) {
  // Of uneven hosts a rank may be the only one with its number on a host: cross_size is 1 then.
  const bool uneven = config.local_size < config.size && !config.secret.empty();
  const bool several = config.cross_size > 1 || uneven || !config.store.starts_with("unix:");
  if (!several && config.backend != "tcp") return std::shared_ptr<tcp::Endpoint>();
  const auto secret = find_secret(store, config, prefix);
  if (!secret.ok()) return secret.status();
  tcp::Endpoint::Options options;
  options.self = {tcp::job_of(config.job), config.epoch, config.rank};
  options.secret = secret.value();
  options.tls = config.tls != 0;
  options.bind = config.address.empty() && !several ? "127.0.0.1" : config.address;
  options.handshake_timeout = milliseconds_of(config.failure_timeout / 10);
  options.connect_timeout = milliseconds_of(config.start_timeout);
  options.buffer_bytes = config.tcp_buffer_bytes;
  options.warn = [log = Log(config)](const std::string& text) { log.warning("{}", text); };
  return tcp::Endpoint::open(options);
}

const std::string kFailed = "failed: ";  // in the place of an address

/// The start of one rank among others.
class Meeting {
 public:
  Meeting(const Config& config, const Clock& clock, const AutoChoices& choices)
      : config_(config),
        choices_(choices),
        prefix_(fmt::format("epoch{}/", config.epoch)),
        deadline_(clock, milliseconds_of(config.start_timeout)),
        clock_(clock) {}

  Result<Transport> run() {
    auto store = find_store(config_, transport_.keep);
    HORA_TRY(store.status());
    store_ = std::move(store).value();
    auto endpoint = open_endpoint(*store_, config_, prefix_);
    HORA_TRY(endpoint.status());
    endpoint_ = std::move(endpoint).value();
    HORA_TRY(meet_everybody());
    // Everybody is here: what follows takes milliseconds, or as long on all ranks.
    deadline_ = Deadline(clock_, milliseconds_of(config_.start_timeout));
    if (const Status met = meet_host(); !met.ok()) return give_up(met);
    if (endpoint_) HORA_TRY(meet_other_hosts());
    HORA_TRY(agree_on_links());
    const auto hosts = static_cast<size_t>(hosts_), ranks = static_cast<size_t>(config_.size);
    transport_.topology = {hosts, (ranks + hosts - 1) / hosts, kUsualInside, costs_.measured};
    HORA_TRY(open_backend());
    return std::move(transport_);
  }

 private:
  int host_of(Rank rank) const { return transport_.hosts[static_cast<size_t>(rank)]; }
  milliseconds left() const {
    return std::max(milliseconds(deadline_.poll_milliseconds()), milliseconds(1));
  }
  auto publish() const {
    return [store = store_, prefix = prefix_](std::string_view key, std::string_view value) {
      return store->set(prefix + std::string(key), value);
    };
  }
  auto lookup() const {
    return [store = store_, prefix = prefix_](std::string_view key, milliseconds timeout) {
      return store->get(prefix + std::string(key), timeout);
    };
  }

  Status meet_everybody() {
    Introduction mine;
    if (endpoint_) mine.addresses = endpoint_->addresses();
    mine.speeds = Compression::own_speeds(config_, [this] { return clock_.now(); });
    if (config_.rank == 0) mine.choices = choices_.text();
    auto met = introduce(*store_, config_, prefix_ + "member/", clock_, mine);
    HORA_TRY(met.status());
    ranks_ = std::move(met).value();
    HORA_TRY(agree_on_speeds());
    auto chosen = AutoChoices::parse(ranks_[0].choices);
    HORA_TRY(chosen.status());
    transport_.chosen = std::move(chosen).value();
    transport_.hosts = hosts_of(ranks_);
    transport_.world = world_of(config_, ranks_, transport_.hosts);
    hosts_ = *std::max_element(transport_.hosts.begin(), transport_.hosts.end()) + 1;
    if (hosts_ > 1 && !endpoint_)
      return Status(Code::kUnavailable,
                    fmt::format("the ranks are on {} hosts, but were started as on one: start "
                                "them with `horarun --hosts`",
                                hosts_));
    if (hosts_ > 1 && config_.backend == "shm")
      return Status(Code::kUnavailable,
                    fmt::format("HORA_BACKEND=shm reaches the ranks of one host, and these are "
                                "on {}: use auto",
                                hosts_));
    const auto tree = make_tree(transport_.hosts, config_.tree_arity);
    at_ = tree[static_cast<size_t>(config_.rank)];
    std::vector<Rank> neighbors = at_.children;
    if (at_.parent >= 0) neighbors.push_back(at_.parent);
    for (const Rank rank : neighbors)
      (host_of(rank) == host_of(config_.rank) ? inside_ : outside_).push_back(rank);
    return {};
  }

  /// All read the same texts, so that all have the same numbers: the slowest rank's.
  Status agree_on_speeds() {
    for (const Introduction& rank : ranks_) {
      if (rank.speeds.empty()) continue;
      const auto speeds = parse_speeds(rank.speeds);
      HORA_TRY(speeds.status());
      transport_.speeds =
          &rank == &ranks_.front() ? speeds.value() : slower(transport_.speeds, speeds.value());
    }
    return {};
  }

  Status meet_host() {
    shm::Neighborhood::Options options;
    options.job = config_.job;
    options.epoch = config_.epoch;
    options.rank = config_.rank;
    for (Rank rank = 0; rank < config_.size; ++rank)
      if (host_of(rank) == host_of(config_.rank)) options.ranks.push_back(rank);
    options.lanes = config_.lanes;
    options.arena_limit = config_.arena_bytes;
    options.timeout = left();
    options.links = inside_;
    auto met = shm::Neighborhood::meet(options, publish(), lookup());
    HORA_TRY(met.status());
    neighborhood_ = std::move(met).value();
    transport_.channel = open_shm_channel(neighborhood_);
    return {};
  }

  /// Connects to the neighbors in the control tree that are on other hosts.
  Status meet_other_hosts() {
    endpoint_->on_ready([bell = transport_.channel->bell(), keep = neighborhood_] { bell.ring(); });
    for (Rank rank = 0; rank < config_.size; ++rank)
      if (rank != config_.rank) endpoint_->know(rank, ranks_[static_cast<size_t>(rank)].addresses);
    const auto key = [](Rank rank) { return tcp::Key{rank, tcp::Role::kControl, 0}; };
    for (const Rank rank : outside_) endpoint_->want(key(rank));
    for (int round = 0; measures() && round < rounds_of(hosts_); ++round)
      if (const auto probe = probe_key(round)) endpoint_->want(*probe);
    std::vector<TcpLink> links;
    for (const Rank rank : outside_) {
      auto socket = endpoint_->wait(key(rank), left());
      if (!socket.ok()) return give_up(with_reason_of(rank, socket.status()));
      links.push_back({rank, std::move(socket).value()});
    }
    if (hosts_ > 1) HORA_TRY(await_others(links));
    transport_.channel = open_tcp_channel(std::move(transport_.channel), std::move(links),
                                          [kept = endpoint_] { kept->forget_in_child(); });
    return {};
  }

  std::string outcome_of(Rank rank) const { return fmt::format("{}outcome/{}", prefix_, rank); }

  /// Leaves the reason for those who wait for this rank.
  Status give_up(const Status& why) const {
    (void)store_->set(outcome_of(config_.rank), kFailed + why.message());
    return why;
  }

  /// Who did not come may itself have waited in vain, for the same time.
  Status with_reason_of(Rank rank, const Status& status) const {
    const auto told = store_->get(outcome_of(rank), patience());
    if (!told.ok() || !told.value().starts_with(kFailed)) return status;
    return Status(status.code(), fmt::format("{}, which says: {}", status.message(),
                                             told.value().substr(kFailed.size())));
  }
  milliseconds patience() const { return milliseconds_of(config_.failure_timeout / 10); }

  /// Nobody begins before all have met: who still waits in here does not answer its neighbors, who
  /// would take it for lost. Each host waits for those below it in the tree, and all for the root.
  /// What they leave is the address that others reach their host at.
  Status await_others(const std::vector<TcpLink>& links) {
    constexpr Rank kRoot = 0;
    for (const Rank rank : outside_) {
      if (rank == at_.parent) continue;
      if (auto told = learn_outcome(rank, patience()); !told.ok()) return give_up(told.status());
    }
    if (!links.empty()) {
      address_ = tcp::bound_to(links[0].socket.get()).host();
      HORA_TRY(store_->set(outcome_of(config_.rank), address_));
    } else {
      auto told = learn_outcome(at_.parent, 2 * patience());
      HORA_TRY(told.status());
      address_ = std::move(told).value();
    }
    return config_.rank == kRoot ? Status() : learn_outcome(kRoot, 2 * patience()).status();
  }

  /// `more` than the rank itself has, which knows better who is missing.
  Result<std::string> learn_outcome(Rank rank, milliseconds more) const {
    auto told = store_->get(outcome_of(rank), left() + more);
    if (told.ok() && !told.value().starts_with(kFailed)) return told;
    return Status(
        Code::kTimeout,
        fmt::format("rank {}: rank {} has not met all others: {}", config_.rank, rank,
                    told.ok() ? told.value().substr(kFailed.size()) : told.status().message()));
  }

  /// Which rank of a host measures for it.
  Rank leader_of(int host) const {
    const auto& hosts = transport_.hosts;
    return static_cast<Rank>(std::find(hosts.begin(), hosts.end(), host) - hosts.begin());
  }
  bool measures() const {
    return hosts_ > 1 && config_.links == "measure" &&
           leader_of(host_of(config_.rank)) == config_.rank;
  }
  std::optional<tcp::Key> probe_key(int round) const {
    const auto partner = partner_of(host_of(config_.rank), round, hosts_);
    if (!partner) return {};
    return tcp::Key{leader_of(*partner), tcp::Role::kProbe, static_cast<uint8_t>(round)};
  }

  /// All ranks have the same numbers: measured by one rank of each host, put together by rank 0.
  Status agree_on_links() {
    const auto setting = parse_links(config_.links);
    HORA_CHECK(setting, config_.links);
    costs_.given = costs_.measured = setting->given;
    if (hosts_ == 1 || !setting->measure) return {};
    if (measures())
      HORA_TRY(store_->set(fmt::format("{}link/{}", prefix_, host_of(config_.rank)),
                           text_of(probe_links())));
    if (config_.rank == 0) HORA_TRY(gather_links());
    const auto text = store_->get(prefix_ + "links", left());
    HORA_TRY(text.status());
    const auto cost = parse_cost(text.value());
    if (!cost) return Status(Code::kCorrupt, "the store has no numbers of links: " + text.value());
    costs_.measured = *cost;
    return {};
  }

  /// Round by round, so that pairs of hosts do not disturb each other.
  std::vector<tcp::LinkSample> probe_links() const {
    std::vector<tcp::LinkSample> samples;
    const int rounds = rounds_of(hosts_);
    const Deadline come(clock_, kProbePatience);
    for (int round = 0; round < rounds; ++round) {
      const auto key = probe_key(round);
      if (!key) continue;
      auto socket =
          endpoint_->wait(*key, std::max(milliseconds(1), milliseconds(come.poll_milliseconds())));
      if (!socket.ok()) continue;
      samples.push_back(tcp::probe(
          std::move(socket).value(), [this] { return clock_.now(); },
          clock_.now() + come.left().count(), kProbeTime.count() / rounds));
    }
    return samples;
  }

  /// Nobody waits long for a host that has not measured.
  Status gather_links() {
    std::vector<tcp::LinkSample> all;
    std::string unknown;
    const Deadline deadline(clock_, 2 * kProbePatience);
    for (int host = 0; host < hosts_; ++host) {
      const auto text =
          store_->get(fmt::format("{}link/{}", prefix_, host),
                      std::max(milliseconds(1), milliseconds(deadline.poll_milliseconds())));
      const auto samples = parse_samples(text.ok() ? text.value() : "");
      const bool fine = std::any_of(samples.begin(), samples.end(),
                                    [](const tcp::LinkSample& one) { return one.rate > 0; });
      if (!fine) unknown += fmt::format("{}{}", unknown.empty() ? "" : ", ", name_of_host(host));
      all.insert(all.end(), samples.begin(), samples.end());
    }
    const LinkCost cost = slowest(all, costs_.given);
    const Log log(config_);
    if (!unknown.empty())
      log.warning(
          "the links of {} could not be measured in time, and count as {}; HORA_LINKS=RATE,"
          "DELAY tells",
          unknown, describe(costs_.given));
    log.info("the slowest link between {} hosts: {}", hosts_, describe(cost));
    return store_->set(prefix_ + "links", text_of(cost));
  }
  const std::string& name_of_host(int host) const {
    return ranks_[static_cast<size_t>(leader_of(host))].host;
  }

  Status open_backend() {
    const std::string_view fastest = hosts_ == 1 ? "shm" : "tcp";
    const std::string_view wanted = config_.backend == "auto" ? fastest : config_.backend;
    if (wanted == "gloo")
      HORA_TRY(open_gloo());
    else
      transport_.backend = wanted == "tcp" ? open_tcp() : shm::open(neighborhood_);
    const bool in_layers = hosts_ > 1 && hosts_ < config_.size && config_.hierarchical != 0;
    if (in_layers)
      transport_.backend =
          hierarchical::open(shm::open(neighborhood_), std::move(transport_.backend),
                             transport_.hosts, config_.rank, costs_);
    return {};
  }

  std::unique_ptr<Backend> open_tcp() const {
    tcp::Options options;
    options.self = config_.rank;
    options.epoch = config_.epoch;
    options.streams = config_.tcp_streams;
    options.hosts = transport_.hosts;
    options.path_timeout = milliseconds_of(config_.failure_timeout);
    options.link = costs_.measured;
    options.now = [clock = SystemClock()] { return clock.now(); };
    return tcp::open(endpoint_, options);
  }

  Status open_gloo() {
    PluginContext context;
    context.rank = config_.rank;
    context.size = config_.size;
    context.job = fmt::format("{}/{}", config_.job, config_.epoch);
    context.hostname = address_;
    context.isa = config_.isa;
    context.setup_timeout = milliseconds_of(config_.start_timeout);
    context.publish = publish();
    context.lookup = lookup();
    context.ring = [bell = transport_.channel->bell()] { bell.ring(); };
    auto loaded = load_backend("gloo", context);
    HORA_TRY(loaded.status());
    transport_.backend = std::move(loaded).value();
    return {};
  }

  const Config& config_;
  const AutoChoices& choices_;  ///< this rank's
  const std::string prefix_;
  Deadline deadline_;
  const Clock& clock_;
  Transport transport_;
  std::shared_ptr<Store> store_;
  std::shared_ptr<tcp::Endpoint> endpoint_;  ///< if there are other hosts
  std::vector<Introduction> ranks_;
  int hosts_ = 1;
  Position at_;
  hierarchical::Costs costs_;
  std::vector<Rank> inside_, outside_;  ///< neighbors in the control tree: of this host, of others
  std::shared_ptr<shm::Neighborhood> neighborhood_;  ///< the ranks of this host
  std::string address_ = "127.0.0.1";                ///< that other ranks reach this one at
};

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
    transport.topology = {1, static_cast<size_t>(size), kUsualInside, kUsualAcross};
    transport.channel = open_local_channel(channels, rank);
    transport.backend = local::open(hub, rank, bells);
  }
  return transports;
}

Result<Transport> meet(const Config& config, const Clock& clock, const AutoChoices& choices) {
  if (!choose_isa(config.isa))
    return Status(Code::kUnavailable,
                  fmt::format("HORA_ISA={}: this machine does not have it", config.isa));
  if (config.size == 1) return alone(config, choices);
  if (config.tls != 0 && config.backend == "gloo")
    return Status(Code::kUnavailable,
                  "HORA_TLS=1: Gloo's connections are not encrypted; HORA_BACKEND=tcp has those "
                  "that are");
  return Meeting(config, clock, choices).run();
}

}  // namespace hora
