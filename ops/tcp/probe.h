#pragma once

#include <cstdint>
#include <functional>

#include "ops/tcp/socket.h"

namespace hora::tcp {

/// What a connection has shown of its link.
struct LinkSample {
  double delay = 0;  ///< seconds one way, half of the shortest round trip that the system has seen
  double rate = 0;   ///< bytes per second towards this side; 0: nothing came in time
};

/// Sees what a link does. The peer calls it at about the same time; once both are there each sends
/// the other a megabyte as fast as it can, for as long as there is time, and looks at the pace of
/// what arrives. Waiting for the first flights of a young connection (the sender's slow start) is
/// taken out, so that a few packets are enough on a long link.
///
/// Takes the connection, which may be full of bytes that nobody wants when it ends. Blocks until
/// `come_by`, a moment of `now`, for the peer to come, and for `burst_ns` from then on. There are
/// no errors: what could not be seen is 0.
LinkSample probe(Socket socket, const std::function<int64_t()>& now, int64_t come_by,
                 int64_t burst_ns);

/// The pace of bytes that arrive: bytes per second between the first and the last, without pauses.
class Pace {
 public:
  /// Longer than `pause_ns` between two arrivals, the sender was waiting; 0: it never does.
  explicit Pace(int64_t pause_ns) : pause_ns_(pause_ns) {}
  void arrived(int64_t now, uint64_t bytes);
  double rate() const;  ///< 0: too little came

 private:
  static constexpr uint64_t kFewBytes = 4096;
  const int64_t pause_ns_;
  int64_t last_ = 0, time_ = 0;
  uint64_t bytes_ = 0;
  bool begun_ = false;
};

}  // namespace hora::tcp
