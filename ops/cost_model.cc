#include "ops/cost_model.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "hora/status.h"

namespace hora {
namespace {

// Of the hierarchical allreduce: see ops/hierarchical.
constexpr double kChunkBytes = 1 << 20, kMaxChunks = 15;

/// What a route costs, taken apart. They add up, but for what a route overlaps.
struct Terms {
  double latency = 0, messages = 0, link = 0, memory = 0;
  double sum() const { return latency + messages + link + memory; }
};

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
  return one.sum() <= two.sum() ? one : two;
}

Prediction inside(const Topology& topology, double bytes) {
  const Terms terms = {topology.inside.latency, 0, 0, bytes / topology.inside.bandwidth};
  return with_limit(Route::kInside, terms.sum(), terms);
}

Prediction flat(const Topology& topology, double bytes) {
  const auto ranks = static_cast<double>(topology.ranks()),
             local = static_cast<double>(topology.ranks_per_host);
  const Terms terms = exchange(topology.across, ranks, local, ranks - local, bytes);
  return with_limit(Route::kFlat, terms.sum(), terms);
}

Prediction hierarchical(const Topology& topology, double bytes) {
  const auto hosts = static_cast<double>(topology.hosts),
             local = static_cast<double>(topology.ranks_per_host);
  Terms terms = exchange(topology.across, hosts, local, hosts - 1, bytes / local);
  if (topology.ranks_per_host > 1) {
    terms.latency += 2 * topology.inside.latency;
    terms.memory = bytes / topology.inside.bandwidth;
  }
  const double chunks = std::clamp(bytes / kChunkBytes, 1.0, kMaxChunks);
  const double hidden = std::min(terms.memory, terms.link) * (1 - 1 / chunks);
  return with_limit(Route::kHierarchical, terms.sum() - hidden, terms);
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.3g} us", seconds * 1e6);
  return seconds < 1 ? fmt::format("{:.3g} ms", seconds * 1e3) : fmt::format("{:.3g} s", seconds);
}

}  // namespace

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

Prediction predict(const Topology& topology, Route route, size_t bytes) {
  HORA_CHECK((topology.hosts == 1) == (route == Route::kInside), "a route for another topology");
  const auto size = static_cast<double>(bytes);
  if (route == Route::kInside) return inside(topology, size);
  return route == Route::kFlat ? flat(topology, size) : hierarchical(topology, size);
}

Prediction choose(const Topology& topology, size_t bytes) {
  if (topology.hosts == 1) return predict(topology, Route::kInside, bytes);
  const Prediction one = predict(topology, Route::kFlat, bytes);
  const Prediction other = predict(topology, Route::kHierarchical, bytes);
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
