#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/backend.h"
#include "ops/cost_model.h"
#include "ops/tcp/socket.h"

/// The backend between hosts: our own collectives over TCP.
namespace hora::tcp {

class Endpoint;

struct Options {
  Rank self = 0;
  uint32_t epoch = 1;
  /// Connections for each pair of ranks on different hosts and lane; equal on all ranks. Ranks of
  /// one host have one: there a second only takes room in the caches.
  int streams = 4;
  std::vector<int> hosts = {};  ///< of each rank, equal on all; empty: all different
  /// The slowest between two hosts; equal on all ranks. What was measured differs from run to run:
  /// it may decide how bytes travel, but not in which order they are added up.
  LinkCost link = kUsualAcross;
  /// How long a peer's machine may leave unacknowledged what was sent to it in an operation. The
  /// engine watches neighbors in its tree only, and data goes other ways, too.
  std::chrono::nanoseconds path_timeout = std::chrono::seconds(10);
  /// How long a peer may move nothing in the middle of an operation. The engine's own liveness is
  /// quicker; this bounds what it cannot see.
  std::chrono::nanoseconds operation_timeout = std::chrono::seconds(60);
  std::function<int64_t()> now;  ///< Clock::now()
};

/// How connections are had: Endpoint::want() and take() for the data connection number `stream` to
/// `peer`, where stream = lane * Options::streams + index. Threads: the lanes' drivers.
struct Dial {
  std::function<void(Rank peer, uint8_t stream)> want;
  std::function<Result<std::optional<Socket>>(Rank peer, uint8_t stream)> take;
};

/// Connections are made by the first operation that needs them, belong to a lane, and carry the
/// operations of all its process sets, which are in the same order on both sides.
///
/// Every element is reduced once, at its owner or everywhere, from all members' values in rank
/// order: the bits are those of `local` and `shm`.
///
/// Errors of operations: kPeerLost names the rank whose connection ended, could not be made, or was
/// silent for the timeout; kTimeout the rank whose machine does not answer; kCorrupt the rank that
/// sent something else than was its turn, and both.
/// After an operation that failed or was aborted every later one on its lane fails, too. A failure
/// also closes the lane's connections, so that the others notice; an abort does not, since whoever
/// aborts tells the others better.
std::unique_ptr<Backend> open(Dial dial, const Options& options);

/// Over an endpoint, which says who this is and in which epoch.
std::unique_ptr<Backend> open(std::shared_ptr<Endpoint> endpoint, const Options& options);

}  // namespace hora::tcp
