#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/bell.h"

namespace hora {

/// How one rank's control frames reach its neighbors in the control tree, and how it learns of
/// their death. Frames are opaque, whole, and in order for each neighbor.
///
/// Threads: the token holder, one at a time; bell() any.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;

  /// Rung by whoever makes work for this rank.
  virtual Bell bell() const = 0;

  /// Queues a frame. Never blocks. Errors: kOutOfMemory if the neighbor does not read.
  virtual Status send(Rank to, std::string_view frame) = 0;

  /// Tries to move what send() had to keep back. True if everything is out.
  virtual bool flush() = 0;

  /// Calls visit(from, frame) for every frame that has arrived; returns whether there were any.
  /// A frame is good during its visit.
  using Visit = std::function<void(Rank from, std::string_view frame)>;
  virtual bool receive(const Visit& visit) = 0;

  /// What is wrong with a neighbor's bytes, naming it; ok while nothing is.
  virtual Status corrupt() const { return {}; }

  /// Descriptors that become readable when a peer dies.
  virtual std::span<const int> watched() const = 0;

  /// Readable while frames from neighbors may wait for receive(), or a neighbor has room again for
  /// flush(); -1: whoever sends rings the bell.
  virtual int arrivals() const { return -1; }

  /// Which ranks are gone, and why, since the last call. Makes system calls: not for the hot path.
  struct Lost {
    Rank rank = 0;
    std::string cause;
  };
  virtual std::vector<Lost> lost() = 0;

  /// In the child of a fork: closes descriptors, touches nothing that is shared.
  virtual void forget_in_child() = 0;
};

/// Ranks that are threads of one process.
class LocalChannels;
std::shared_ptr<LocalChannels> make_local_channels(int size);
std::unique_ptr<ControlChannel> open_local_channel(std::shared_ptr<LocalChannels> channels,
                                                   Rank rank);
std::vector<Bell> bells_of(LocalChannels& channels);

}  // namespace hora
