#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/bell.h"
#include "ops/shm/arena.h"
#include "ops/shm/meeting.h"
#include "ops/shm/ring.h"
#include "ops/shm/window.h"

namespace hora::shm {

/// What the ranks of one host share, mapped by all of them. Made once per epoch; leaves nothing on
/// the machine, however a rank ends. Ranks may be threads of one process.
///
/// Ownership: peers' memory stays mapped until this ends, even if they have gone.
/// Threads: control frames and deaths by the driver (one at a time); bell() and arena() any.
class Neighborhood {
 public:
  struct Options {
    std::string job;
    uint32_t epoch = 1;
    Rank rank = 0;
    std::vector<Rank> ranks;  ///< of this host, ascending; `rank` among them
    int lanes = 1;
    uint64_t arena_limit = 0;  ///< bytes; 0: as much as the machine has
    std::chrono::milliseconds timeout{10000};
    std::vector<Rank> links;  ///< ranks this one exchanges control frames with; they list it too
  };

  /// Meets the others. `publish` and `lookup` carry one short value for each rank. Errors: kTimeout
  /// names who is missing; kOutOfMemory; kUnavailable: a rank that can't be reached this way.
  static Result<std::shared_ptr<Neighborhood>> meet(const Options& options, const Publish& publish,
                                                    const Lookup& lookup);
  /// For meet().
  Neighborhood(const Options& options, Belongings mine, std::unique_ptr<Arena> arena,
               std::vector<Peer> peers);

  const Options& options() const { return options_; }
  int index_of(Rank rank) const;  ///< among options().ranks, or -1
  Bell bell(Rank rank) const;  ///< bell(options().rank) is what this rank's driver arms and polls

  /// Queues a whole frame for `to` and rings its bell. Never blocks: what finds no room waits here
  /// for flush(). Errors: kOutOfMemory when too much waits; kInvalidArgument: too long, or no link.
  Status send(Rank to, std::string_view frame);
  void flush();
  bool flushed() const;  ///< nothing waits here

  /// Calls visit(from, frame) for every whole frame that has arrived; returns whether anything
  /// came. A frame is valid during its visit. Errors: kCorrupt names the rank.
  using Visit = std::function<void(Rank from, std::string_view frame)>;
  Result<bool> receive(const Visit& visit);

  /// Becomes readable when the rank's process ends or closes its side, and stays so.
  struct Watch {
    int fd;
    Rank rank;
  };
  std::vector<Watch> watches() const;
  /// What happened, after one of watches() became readable: "process 1234 was killed by signal 9
  /// (Killed)", "process 1234 exited with code 1", "process 1234 is gone", "process 1234 hung up".
  std::string died(int fd) const;

  /// In a forked child: closes every descriptor and unlearns all memory. Async-signal-safe. Nothing
  /// but the destructor may be called afterwards.
  void forget_in_child();

  Arena& arena() { return *arena_; }
  const Window& window(int index) const { return windows_[static_cast<size_t>(index)]; }
  /// The arena of the rank with this index, in this process's addresses.
  std::byte* arena_of(int index) const;
  size_t arena_bytes_of(int index) const;

 private:
  struct Link {
    Rank rank;
    Bell bell;
    Outbox out;
    Inbox in;
  };
  void make_links();

  const Options options_;
  const int self_;
  Belongings mine_;
  const std::unique_ptr<Arena> arena_;
  std::vector<Peer> peers_;      ///< by index on the host; this rank's own is empty
  std::vector<Window> windows_;  ///< by index
  std::vector<Link> links_;
};

}  // namespace hora::shm
