#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace hora {

/// What it costs to send over a link: the alpha-beta model with a processor's share (Hockney 1994;
/// the overhead o of LogP, Culler et al. 1993).
struct LinkCost {
  double latency = 0;    ///< seconds until the last byte of a small message has arrived
  double overhead = 0;   ///< seconds of the sender's or receiver's processor for each message
  double bandwidth = 0;  ///< bytes per second: of a host in each direction, or of a rank's
                         ///< allreduce through shared memory
};

/// What machines with two to sixteen cores have been seen to do where nothing is known of them:
/// shared memory, and a network within a building. A message's overhead is its system calls and
/// interrupts.
inline constexpr LinkCost kUsualInside = {3e-6, 0, 6e9};
inline constexpr LinkCost kUsualAcross = {25e-6, 5e-6, 1.25e9};

/// A job, and what connects it.
struct Topology {
  size_t hosts = 1, ranks_per_host = 1;
  LinkCost inside, across;
  size_t ranks() const { return hosts * ranks_per_host; }
};

/// What is asked for. `bytes` below are the tensor's; of a reduce_scatter or allgather, those of
/// all members' parts together.
enum class Collective { kAllreduce, kReduceScatter, kAllgather, kBroadcast };

/// How it can go.
enum class Route {
  kInside,        ///< one host: shared memory
  kFlat,          ///< every rank with every other
  kHierarchical,  ///< shared memory inside, a shard of each rank between hosts
};
const char* name_of(Route route);

/// Seconds that an operation is expected to take, and what limits it.
struct Prediction {
  Route route = Route::kInside;
  double seconds = 0;
  const char* limit = "";  ///< "latency", "messages", "link", "memory"
  size_t chunks = 1;       ///< hierarchical: how many make it quickest
};

inline constexpr size_t kMostChunks = 15;            ///< of a hierarchical operation
inline constexpr size_t kLeastChunkBytes = 1 << 20;  ///< if there are several

/// Pure functions of their arguments: all ranks that are given the same numbers choose alike.
/// `route` must fit the topology: kInside needs one host, the others more.
Prediction predict(const Topology& topology, Route route, size_t bytes,
                   Collective collective = Collective::kAllreduce);
Prediction choose(const Topology& topology, size_t bytes,
                  Collective collective = Collective::kAllreduce);

/// One sentence: why choose() for an allreduce took this route and not the next best.
std::string reason(const Topology& topology, size_t bytes);

/// How many hosts ranks lie on; `hosts` has the number of each rank's.
size_t hosts_in(std::span<const int> hosts);

/// For people, to three digits: "12.5 us", "600 ms", "2 s".
std::string time_text(double seconds);

/// The same for bytes per second, said in bits: "1 Gbit/s", "100 Mbit/s".
std::string rate_text(double bandwidth);

}  // namespace hora
