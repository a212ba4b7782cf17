#pragma once

#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hora/status.h"
#include "ops/descriptor.h"
#include "ops/tcp/memory.h"
#include "ops/tcp/stream.h"
#include "ops/tcp/tcp.h"

namespace hora::tcp {

/// What tells that a socket has news: an epoll set, edge-triggered.
class Watch {
 public:
  Watch();
  int descriptor() const { return epoll_.get(); }
  void add(Stream& stream);
  void remove(const Stream& stream);  ///< before it is closed
  /// Passes on what there is. Threads: any.
  void look();

  /// In the child of a fork: closes the sockets that were added, and its own. Nothing may be called
  /// afterwards.
  void forget_in_child();

 private:
  Descriptor epoll_;
  std::forward_list<int> sockets_;  ///< -1: an entry to use again. A fork finds it whole
};

/// All connections of one lane, and the messages of the operation that is in progress there.
///
/// Threads: the lane's driver. Ownership: shares the watch.
class Links {
 public:
  Links(Dial dial, const Options& options, int lane, std::shared_ptr<Watch> watch);
  ~Links() { close(); }
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  /// Begins an operation. Errors: why the lane's connections are of no more use.
  Status begin(uint64_t tag);

  /// Queues bytes [begin, begin + bytes) of `memory`: the message `index` of `channel` to, or from,
  /// a peer. Indices count from 0 for each peer, direction and channel. The memory must stay until
  /// the operation is done.
  void send(Rank peer, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
            size_t bytes);
  void expect(Rank peer, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
              size_t bytes);

  /// Messages of channel 0 below `index` have a place now; until the first call, all have.
  void admit(uint32_t index) { flow_.admitted = index; }

  /// Has message `index` come, and all before it?
  bool received(Rank peer, uint32_t channel, uint32_t index) const;

  /// One attempt to move what there is, in each direction of each connection. True if anything
  /// moved or failed; false means that there is nothing to do until the watch has news or the
  /// endpoint rings.
  bool advance();

  /// Whether a rank is on this rank's host.
  bool near(Rank rank) const;

  /// How many bytes the slowest link between hosts carries in the time that one step of a schedule
  /// takes, if that is a message from each of so many peers.
  size_t bytes_worth_a_step(size_t peers) const;

  bool done() const { return flow_.pending == 0; }
  uint64_t moved() const { return flow_.moved; }  ///< bytes since the operation began
  const Status& status() const { return broken_; }

  /// Nothing moves from now on; the first reason stays. The connections stay, too: an epoch's end
  /// has reached everybody when its ranks take them down, and nobody blames the messenger.
  void retire(Status why);

 private:
  // So few streams are tried, and others after news only, as long as an operation is so small:
  // later most attempts fail, and who makes them takes the processor from those who have something
  // to do.
  static constexpr size_t kTriedBlindly = 4;
  static constexpr uint64_t kBlindBytes = 128 << 10;
  static constexpr int64_t kLookEvery = 10'000'000;  ///< ns

  struct Link {
    Stream stream;
    const uint8_t number;  ///< for the dial
    bool wanted = false, active = false;
    Link(Flow& flow, Rank peer, uint8_t stream_number)
        : stream(flow, peer), number(stream_number) {}
  };
  struct Peer {
    std::vector<std::unique_ptr<Link>> links;
    int64_t heard_at = 0;
    bool stirred = false;
  };
  Peer& peer_of(Rank rank);
  Link& activate(Rank rank, uint32_t index);
  void close();
  void fail(Status why);  ///< closes everything, so that the peers notice
  bool connect();
  bool move_all();
  void look_for_silence();

  const Dial dial_;
  const Options options_;
  const size_t streams_;   ///< to each rank of another host
  const size_t siblings_;  ///< connections that may be busy at once, at least
  const int lane_;
  const std::shared_ptr<Watch> watch_;
  Flow flow_;
  std::map<Rank, Peer> peers_;
  std::vector<Link*> active_;  ///< of this operation
  size_t unconnected_ = 0;     ///< of them
  int64_t looked_at_ = 0;
  Status broken_;
};

}  // namespace hora::tcp
