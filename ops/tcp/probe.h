#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ops/tcp/socket.h"

namespace hora::tcp {

/// What a connection has shown of its link.
struct LinkSample {
  double delay = 0;  ///< seconds one way, half of the shortest round trip that the system has seen
  double rate = 0;   ///< bytes per second towards this side; 0: nothing came in time
};

/// Sees what a link does. The peer calls it at about the same time; once both are there each sends
/// the other 256 KiB as fast as it can, for as long as there is time, and looks at the pace of what
/// arrives while it is fastest: not while the sender waits in its slow start. More would fill the
/// queues of slow links and delay what else the job has to say.
///
/// Takes the connection, which may be full of bytes that nobody wants when it ends. Blocks until
/// `come_by`, a moment of `now`, for the peer to come, and for `burst_ns` from then on. There are
/// no errors: what could not be seen is 0.
LinkSample probe(Socket socket, const std::function<int64_t()>& now, int64_t come_by,
                 int64_t burst_ns);

/// The pace of bytes that arrive: the fastest quarter of them that came in a row.
class Pace {
 public:
  void arrived(int64_t now, uint64_t bytes);
  double rate() const;  ///< bytes per second; 0: too little came

 private:
  static constexpr uint64_t kFewBytes = 4096;
  struct Arrival {
    int64_t at = 0;
    uint64_t total = 0;  ///< bytes up to and with this one
  };
  std::vector<Arrival> arrivals_;
};

}  // namespace hora::tcp
