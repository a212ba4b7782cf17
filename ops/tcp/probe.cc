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

constexpr size_t kBurst = 256 << 10, kPiece = 16 << 10;

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
  arrivals_.push_back({now, (arrivals_.empty() ? 0 : arrivals_.back().total) + bytes});
}

// Since when the first bytes of a row were on their way is not known, so they only begin it.
double Pace::rate() const {
  if (arrivals_.size() < 2) return 0;
  const uint64_t all = arrivals_.back().total - arrivals_.front().total;
  if (all < kFewBytes) return 0;
  double fastest = 0;
  for (size_t first = 0, last = 1; last < arrivals_.size(); ++last) {
    const auto bytes = [&](size_t from) { return arrivals_[last].total - arrivals_[from].total; };
    while (first + 1 < last && 4 * bytes(first + 1) >= all) ++first;
    const auto took = static_cast<double>(arrivals_[last].at - arrivals_[first].at);
    if (4 * bytes(first) >= all && took > 0)
      fastest = std::max(fastest, 1e9 * static_cast<double>(bytes(first)) / took);
  }
  return fastest;
}

LinkSample probe(Socket socket, const std::function<int64_t()>& now, int64_t come_by,
                 int64_t burst_ns) {
  LinkSample sample;
  sample.delay = round_trip_of(socket) / 2;
  if (!meet(socket, now, come_by)) return sample;
  const int64_t deadline = now() + burst_ns;
  Pace pace;
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
