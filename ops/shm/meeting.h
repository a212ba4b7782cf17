#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/shm/memory.h"

namespace hora::shm {

using Publish = std::function<Status(const std::string& key, const std::string& value)>;
using Lookup =
    std::function<Result<std::string>(const std::string& key, std::chrono::milliseconds timeout)>;

/// What a rank gives every peer of its host.
struct Belongings {
  Descriptor window_memory, eventfd;
  std::shared_ptr<Mapping> window;
  int arena_memory = -1;  ///< the arena's; borrowed
  std::shared_ptr<Mapping> arena;
};

/// What a rank has of a peer.
struct Peer {
  Rank rank = -1;
  pid_t pid = 0;       ///< 0: in a namespace that this process can't see
  Descriptor socket;   ///< end of file: the peer has gone or closed it
  Descriptor process;  ///< pidfd; none for a thread of this process
  Descriptor eventfd;
  std::shared_ptr<Mapping> window, arena;
};

struct Invitation {
  std::string job;
  uint32_t epoch = 0;
  Rank rank = 0;
  std::vector<Rank> ranks;
  int lanes = 0, links = 0;
  std::chrono::milliseconds timeout{};
};

/// Exchanges belongings with every rank of the invitation. Each rank listens on a unix socket
/// without a file, whose random name it publishes, and calls the ranks before it. Both sides check
/// that the other's user is this one; anything unexpected is hung up on and waited out.
///
/// The exchange: the caller sends Hello with its memory and eventfd, the called answers alike, the
/// caller acknowledges with one byte. The connection stays, to show when the peer is gone.
Result<std::vector<Peer>> meet_all(const Invitation& invitation, const Belongings& mine,
                                   const Publish& publish, const Lookup& lookup);

/// What became of the process of a pidfd, as far as the kernel tells.
std::string obituary(const Descriptor& process, pid_t pid);

}  // namespace hora::shm
