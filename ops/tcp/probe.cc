#include "ops/tcp/probe.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace hora::tcp {
namespace {

constexpr size_t kBurst = 1 << 20, kPiece = 64 << 10;
// Below this round trip, waiting for it costs a burst little, and a pause is rather the machine's.
constexpr double kLongRoundTrip = 5e-3;

/// Seconds; 0: the system does not say.
double round_trip_of(const Socket& socket) {
  tcp_info info{};
  socklen_t bytes = sizeof(info);
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return 0;
  return static_cast<double>(info.tcpi_min_rtt) / 1e6;
}

/// False once `deadline` has passed.
bool wait_for(const Socket& socket, bool sends, const std::function<int64_t()>& now,
              int64_t deadline) {
  const int64_t left = deadline - now();
  if (left <= 0) return false;
  pollfd entry{socket.get(), static_cast<short>(POLLIN | (sends ? POLLOUT : 0)), 0};
  ::poll(&entry, 1, static_cast<int>(left / 1'000'000 + 1));
  return true;
}

bool again(ssize_t result) {
  return result < 0 && errno == EAGAIN;
}

/// Both sides are here.
bool meet(Socket& socket, const std::function<int64_t()>& now, int64_t deadline) {
  if (socket.write("!") != 1) return false;
  for (char byte = 0;;) {
    const ssize_t got = socket.read(&byte, 1);
    if (got == 1) return true;
    if (!again(got) || !wait_for(socket, false, now, deadline)) return false;
  }
}

}  // namespace

void Pace::arrived(int64_t now, uint64_t bytes) {
  const int64_t gap = now - last_;
  last_ = now;
  if (!begun_ || (pause_ns_ > 0 && gap > pause_ns_)) {  // when these began to arrive is not known
    begun_ = true;
    return;
  }
  time_ += gap;
  bytes_ += bytes;
}

double Pace::rate() const {
  if (bytes_ < kFewBytes || time_ <= 0) return 0;
  return 1e9 * static_cast<double>(bytes_) / static_cast<double>(time_);
}

LinkSample probe(Socket socket, const std::function<int64_t()>& now, int64_t come_by,
                 int64_t burst_ns) {
  LinkSample sample;
  const double round_trip = round_trip_of(socket);
  sample.delay = round_trip / 2;
  if (!meet(socket, now, come_by)) return sample;
  const int64_t deadline = now() + burst_ns;
  Pace pace(round_trip > kLongRoundTrip ? static_cast<int64_t>(sample.delay * 1e9) : 0);
  const std::string load(kPiece, 'x');
  std::string arrived(kPiece, '\0');
  size_t sent = 0, got = 0;
  while (sent < kBurst || got < kBurst) {
    bool moved = false;
    if (got < kBurst) {
      const ssize_t now_got = socket.read(arrived.data(), std::min(kPiece, kBurst - got));
      if (now_got <= 0 && !again(now_got)) break;
      if (now_got > 0) {
        got += static_cast<size_t>(now_got);
        pace.arrived(now(), static_cast<uint64_t>(now_got));
        moved = true;
      }
    }
    if (sent < kBurst) {
      const ssize_t now_sent =
          socket.write(std::string_view(load).substr(0, std::min(kPiece, kBurst - sent)));
      if (now_sent < 0 && !again(now_sent)) break;
      if (now_sent > 0) sent += static_cast<size_t>(now_sent);
      moved = moved || now_sent > 0;
    }
    if (now() >= deadline) break;
    if (!moved && !wait_for(socket, sent < kBurst, now, deadline)) break;
  }
  sample.rate = pace.rate();
  return sample;
}

}  // namespace hora::tcp
