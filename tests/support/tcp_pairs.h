#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "ops/tcp/socket.h"
#include "ops/tcp/tcp.h"

namespace hora::support {

/// Connections among ranks of one test, made before the ranks start: real ones over loopback. What
/// Endpoint does without proofs. Threads: any.
class TcpPairs {
 public:
  /// `numbers` connections for each pair of ranks.
  TcpPairs(int size, int numbers, bool encrypted = false);

  /// This rank's way to its ends. In a process of its own everybody else's are to be closed first,
  /// so that a death is seen.
  tcp::Dial dial(Rank self);
  void keep_only(Rank self);

  /// One end, to speak for a rank by hand.
  tcp::Socket end(Rank self, Rank peer, int number);

 private:
  size_t place(Rank self, Rank peer, int number) const;

  const int size_, numbers_;
  std::mutex mutex_;
  std::vector<tcp::Socket> ends_;  ///< guarded by mutex_
};

/// The ends of one connection, encrypted; both sides have agreed on their keys.
std::pair<tcp::Socket, tcp::Socket> encrypt(Descriptor client, Descriptor server,
                                            uint64_t renew_after_bytes);

/// What tests run with: a small number of streams, and the machine's clock.
tcp::Options tcp_options(Rank self);
constexpr int kTcpStreams = 2;

}  // namespace hora::support
