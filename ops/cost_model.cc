#include "ops/cost_model.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "hora/status.h"

namespace hora {
namespace {

/// What a route costs, taken apart. They add up, but for what a route overlaps.
struct Terms {
  double latency = 0, messages = 0, link = 0, memory = 0;
  double sum() const { return latency + messages + link + memory; }
  friend Terms operator*(double times, const Terms& of) {
    return {times * of.latency, times * of.messages, times * of.link, times * of.memory};
  }
};

const Terms& least(const Terms& one, const Terms& two) {
  return one.sum() <= two.sum() ? one : two;
}

Prediction with_limit(Route route, double seconds, const Terms& terms) {
  const std::array<std::pair<double, const char*>, 4> all = {{{terms.latency, "latency"},
                                                              {terms.messages, "messages"},
                                                              {terms.link, "link"},
                                                              {terms.memory, "memory"}}};
  return {route, seconds, std::max_element(all.begin(), all.end())->second};
}

/// `members` exchange among each other, `senders` of them behind one host's link; `elsewhere` of a
/// member's messages leave the host. In one step everything to everybody, or in two: parts to their
/// owners, and results back.
Terms exchange(const LinkCost& link, double members, double senders, double elsewhere,
               double bytes) {
  const Terms one = {link.latency, (members - 1) * link.overhead,
                     senders * elsewhere * bytes / link.bandwidth, 0};
  const Terms two = {2 * link.latency, 2 * (members - 1) * link.overhead,
                     2 * senders * elsewhere * bytes / members / link.bandwidth, 0};
  return least(one, two);
}

/// One way only: a part of each to all others, or a part for each from all others.
Terms half_exchange(const LinkCost& link, double members, double senders, double elsewhere,
                    double bytes) {
  return {link.latency, (members - 1) * link.overhead,
          senders * elsewhere * bytes / members / link.bandwidth, 0};
}

/// From one to all others, of which `elsewhere` are behind its host's link: itself, or each to the
/// next.
Terms spread(const LinkCost& link, double members, double elsewhere, double bytes) {
  const double seconds = bytes / link.bandwidth;
  return least({link.latency, (members - 1) * link.overhead, elsewhere * seconds, 0},
               {(members - 1) * link.latency, link.overhead, seconds, 0});
}

/// Among `senders` on each of `hosts`.
Terms across(Collective collective, const LinkCost& link, double hosts, double senders,
             double bytes) {
  const double members = hosts * senders, elsewhere = members - senders;
  switch (collective) {
    case Collective::kAllreduce:
      return exchange(link, members, senders, elsewhere, bytes);
    case Collective::kReduceScatter:
    case Collective::kAllgather:
      return half_exchange(link, members, senders, elsewhere, bytes);
    case Collective::kBroadcast:
      return spread(link, members, elsewhere, bytes);
  }
  HORA_CHECK(false, "no such collective");
}

Prediction inside(const Topology& topology, double bytes) {
  const Terms terms = {topology.inside.latency, 0, 0, bytes / topology.inside.bandwidth};
  return with_limit(Route::kInside, terms.sum(), terms);
}

Prediction flat(const Topology& topology, Collective collective, double bytes) {
  const auto hosts = static_cast<double>(topology.hosts),
             local = static_cast<double>(topology.ranks_per_host);
  const Terms terms = across(collective, topology.across, hosts, local, bytes);
  return with_limit(Route::kFlat, terms.sum(), terms);
}

/// Chunks cross one after the other; what one does inside is hidden behind the next one's way
/// across, or the other way around. What every chunk adds makes one of them best on a long link.
Prediction in_chunks(const Topology& topology, Collective collective, double bytes, size_t number) {
  const auto hosts = static_cast<double>(topology.hosts),
             local = static_cast<double>(topology.ranks_per_host),
             chunks = static_cast<double>(number);
  Terms terms;
  if (collective == Collective::kAllreduce) {
    // Each member has a shard of its own, all of them one link.
    terms = exchange(topology.across, hosts, local, hosts - 1, bytes / local / chunks);
  } else {
    terms = across(collective, topology.across, hosts, 1, bytes / chunks);
  }
  if (topology.ranks_per_host > 1) {
    terms.latency += 2 * topology.inside.latency;
    terms.memory = bytes / chunks / topology.inside.bandwidth;
  }
  terms = chunks * terms;
  const double hidden = std::min(terms.memory, terms.link) * (1 - 1 / chunks);
  Prediction result = with_limit(Route::kHierarchical, terms.sum() - hidden, terms);
  result.chunks = number;
  return result;
}

Prediction hierarchical(const Topology& topology, Collective collective, double bytes) {
  Prediction best = in_chunks(topology, collective, bytes, 1);
  for (size_t chunks = 2; chunks <= kMostChunks; ++chunks) {
    if (bytes < static_cast<double>(chunks * kLeastChunkBytes)) break;
    const Prediction next = in_chunks(topology, collective, bytes, chunks);
    if (next.seconds < best.seconds) best = next;
  }
  return best;
}

}  // namespace

size_t hosts_in(std::span<const int> hosts) {
  return std::set<int>(hosts.begin(), hosts.end()).size();
}

// What three digits round up to the next unit is said in that one.
std::string time_text(double seconds) {
  if (seconds < 0.9995e-3) return fmt::format("{:.3g} us", seconds * 1e6);
  return seconds < 0.9995 ? fmt::format("{:.3g} ms", seconds * 1e3)
                          : fmt::format("{:.3g} s", seconds);
}

std::string rate_text(double bandwidth) {
  const double bits = bandwidth * 8;
  return bits >= 0.9995e9 ? fmt::format("{:.3g} Gbit/s", bits / 1e9)
                          : fmt::format("{:.3g} Mbit/s", bits / 1e6);
}

const char* name_of(Route route) {
  switch (route) {
    case Route::kInside:
      return "inside";
    case Route::kFlat:
      return "flat";
    case Route::kHierarchical:
      return "hierarchical";
  }
  HORA_CHECK(false, "no such route");
}

Prediction predict(const Topology& topology, Route route, size_t bytes, Collective collective) {
  HORA_CHECK((topology.hosts == 1) == (route == Route::kInside), "a route for another topology");
  const auto size = static_cast<double>(bytes);
  if (route == Route::kInside) return inside(topology, size);
  return route == Route::kFlat ? flat(topology, collective, size)
                               : hierarchical(topology, collective, size);
}

Prediction choose(const Topology& topology, size_t bytes, Collective collective) {
  if (topology.hosts == 1) return predict(topology, Route::kInside, bytes, collective);
  const Prediction one = predict(topology, Route::kFlat, bytes, collective);
  const Prediction other = predict(topology, Route::kHierarchical, bytes, collective);
  // With one rank on each host the two are the same.
  return topology.ranks_per_host > 1 && other.seconds < one.seconds ? other : one;
}

std::string reason(const Topology& topology, size_t bytes) {
  const Prediction best = choose(topology, bytes);
  if (best.route == Route::kInside)
    return fmt::format("one host: shared memory, limited by {}", best.limit);
  if (topology.ranks_per_host == 1)
    return fmt::format("one rank on each host: nothing to do inside; limited by {}", best.limit);
  const Route other = best.route == Route::kFlat ? Route::kHierarchical : Route::kFlat;
  const Prediction next = predict(topology, other, bytes);
  return fmt::format("limited by {}; {} would take {}, limited by {}", best.limit, name_of(other),
                     time_text(next.seconds), next.limit);
}

}  // namespace hora
