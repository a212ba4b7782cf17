#include "ops/tcp/links.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "ops/tcp/address.h"

namespace hora::tcp {
namespace {

constexpr int kEvents = 64;
constexpr uint32_t kNearMicroseconds = 2000;
constexpr double kSmallestBuffer = 64 << 10;
constexpr double kQueueSeconds = 0.02;  // what a lane may have on its way to a near host, at most

/// The system answers with twice what it was asked for.
void divide(int socket, int buffer, double most, size_t by) {
  int bytes = 0;
  socklen_t length = sizeof(bytes);
  if (::getsockopt(socket, SOL_SOCKET, buffer, &bytes, &length) != 0) return;
  const double share = std::min(bytes / 2.0, most) / static_cast<double>(by);
  bytes = static_cast<int>(std::max(kSmallestBuffer, share));
  ::setsockopt(socket, SOL_SOCKET, buffer, &bytes, sizeof(bytes));
}

/// Whether the connection's other end is near: where even the slowest link is short, all are. A
/// connection that is made while others fill the link has seen their queue only.
bool is_near(int socket, const LinkCost& slowest) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (2e6 * slowest.latency <= kNearMicroseconds) return true;
  return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
         info.tcpi_min_rtt <= kNearMicroseconds;
}

/// Between near hosts, all that may be on the way to one of them has to find room in the queues
/// before it, and more would not be faster, so a lane's connections share one buffer, no larger
/// than the link needs. Long ways and losses are left to what the system has been told to use; see
/// prepare().
void suit_to_distance(int socket, const LinkCost& slowest, size_t siblings) {
  if (is_near(socket, slowest)) {
    for (const int buffer : {SO_SNDBUF, SO_RCVBUF})
      divide(socket, buffer, slowest.bandwidth * kQueueSeconds, siblings);
    return;
  }
  const Descriptor fresh(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  char name[16] = {};
  socklen_t length = sizeof(name);
  if (fresh.valid() && ::getsockopt(fresh.get(), IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0)
    (void)control_congestion(socket, std::string_view(name, ::strnlen(name, length)));
}

/// Has the peer's machine not answered for what was sent so long ago? It answers for a process that
/// is stopped, too, so it or the way there is gone.
bool unanswered(int socket, std::chrono::nanoseconds limit) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_unacked > 0 && std::chrono::milliseconds(info.tcpi_last_ack_recv) >= limit;
}

/// To each rank of another host. Several streams fill a link of two hosts, and many soon overflow
/// its queues. So many hosts share them where a link is short; on a long one each begins slowly,
/// and all are needed.
size_t streams_of(const Options& options) {
  const size_t hosts = hosts_in(options.hosts);
  const auto streams = static_cast<size_t>(options.streams);
  if (hosts < 2 || options.link.latency > kNearMicroseconds * 1e-6) return streams;
  return std::max<size_t>(1, streams / (hosts - 1));
}

}  // namespace

Watch::Watch() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  HORA_CHECK(epoll_.valid(), "tcp: no epoll descriptor");
}

void Watch::add(Stream& stream) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &stream;
  HORA_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stream.socket(), &event) == 0,
             "tcp: cannot watch a connection");
  const auto unused = std::find(sockets_.begin(), sockets_.end(), -1);
  if (unused != sockets_.end())
    *unused = stream.socket();
  else
    sockets_.push_front(stream.socket());
}

// Closing alone would not do where a fork's child still has the descriptor.
void Watch::remove(const Stream& stream) {
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, stream.socket(), nullptr);
  std::replace(sockets_.begin(), sockets_.end(), stream.socket(), -1);
}

void Watch::forget_in_child() {
  for (const int socket : sockets_)
    if (socket >= 0) ::close(socket);
  epoll_.reset();
}

void Watch::look() {
  epoll_event events[kEvents];
  int count = kEvents;
  while (count == kEvents) {
    count = ::epoll_wait(epoll_.get(), events, kEvents, 0);
    for (int i = 0; i < count; ++i) {
      const bool ended = (events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0;
      static_cast<Stream*>(events[i].data.ptr)
          ->note(ended || (events[i].events & EPOLLIN) != 0,
                 ended || (events[i].events & EPOLLOUT) != 0);
    }
  }
}

Links::Links(Dial dial, const Options& options, int lane, std::shared_ptr<Watch> watch)
    : dial_(std::move(dial)),
      options_(options),
      streams_(streams_of(options)),
      siblings_(std::max<size_t>(static_cast<size_t>(options.streams), hosts_in(options.hosts))),
      lane_(lane),
      watch_(std::move(watch)) {
  flow_.self = options.self;
  flow_.epoch = options.epoch;
}

Status Links::begin(uint64_t tag) {
  HORA_TRY(broken_);
  for (Link* link : active_) {
    link->active = false;
    link->stream.begin();
  }
  active_.clear();
  unconnected_ = 0;
  flow_.tag = tag;
  flow_.admitted = std::numeric_limits<uint32_t>::max();
  flow_.pending = flow_.moved = 0;
  looked_at_ = 0;
  return {};
}

bool Links::near(Rank rank) const {
  const auto host_of = [this](Rank one) { return options_.hosts[static_cast<size_t>(one)]; };
  return !options_.hosts.empty() && host_of(rank) == host_of(options_.self);
}

size_t Links::bytes_worth_a_step(size_t peers) const {
  const LinkCost& link = options_.link;
  const double seconds = link.latency + link.overhead * static_cast<double>(peers);
  return static_cast<size_t>(std::min(seconds * link.bandwidth, 1e9));
}

Links::Peer& Links::peer_of(Rank rank) {
  Peer& peer = peers_[rank];
  const size_t streams = near(rank) ? 1 : streams_;
  for (size_t i = peer.links.size(); i < streams; ++i)
    peer.links.push_back(
        std::make_unique<Link>(flow_, rank, static_cast<uint8_t>(lane_ * options_.streams + i)));
  return peer;
}

Links::Link& Links::activate(Rank rank, uint32_t index) {
  Peer& peer = peer_of(rank);
  Link& link = *peer.links[index % peer.links.size()];
  if (link.active) return link;
  link.active = true;
  active_.push_back(&link);
  if (link.stream.attached()) return link;
  ++unconnected_;
  if (!std::exchange(link.wanted, true)) dial_.want(rank, link.number);
  return link;
}

void Links::send(Rank peer, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
                 size_t bytes) {
  activate(peer, index).stream.send(channel, {&memory, begin, bytes, index});
}

void Links::expect(Rank peer, uint32_t channel, uint32_t index, const Memory& memory, size_t begin,
                   size_t bytes) {
  activate(peer, index).stream.expect(channel, {&memory, begin, bytes, index});
}

bool Links::received(Rank peer, uint32_t channel, uint32_t index) const {
  const auto& links = peers_.find(peer)->second.links;
  // Message i is number i / streams of its stream; those before it are one round behind or ahead.
  const size_t streams = links.size();
  for (size_t i = 0; i < streams; ++i) {
    const size_t wanted = (index + streams - i) / streams;
    if (links[i]->stream.received(channel) < wanted) return false;
  }
  return true;
}

bool Links::advance() {
  if (!broken_.ok()) return true;
  bool moved = unconnected_ > 0 && connect();
  moved |= move_all();
  if (!moved && broken_.ok()) look_for_silence();
  return moved || !broken_.ok();
}

bool Links::connect() {
  bool any = false;
  for (Link* link : active_) {
    if (link->stream.attached()) continue;
    auto taken = dial_.take(link->stream.peer(), link->number);
    if (!taken.ok()) {
      fail(Status(Code::kPeerLost,
                  fmt::format("tcp: rank {} has no connection to rank {}: {}", flow_.self,
                              link->stream.peer(), taken.status().message())));
      return true;
    }
    if (!taken.value()) continue;
    if (!near(link->stream.peer()))
      suit_to_distance(taken.value()->get(), options_.link, siblings_);
    link->stream.attach(std::move(*taken.value()));
    watch_->add(link->stream);
    --unconnected_;
    any = true;
  }
  return any;
}

bool Links::move_all() {
  const bool blindly = active_.size() <= kTriedBlindly && flow_.moved < kBlindBytes;
  if (!blindly) watch_->look();
  bool any = false;
  for (Link* link : active_) {
    Stream& stream = link->stream;
    if (!stream.attached() || !(blindly || stream.stirs())) continue;
    const Stream::Moved moved = stream.move();
    if (moved == Stream::Moved::kNothing) continue;
    any = true;
    if (moved == Stream::Moved::kFailed) {
      fail(stream.error());
      return true;
    }
    peers_.find(stream.peer())->second.stirred = true;
  }
  return any;
}

// Of several that are silent, the guilty one is rather one that owes its own data than one that may
// be waiting for others itself.
void Links::look_for_silence() {
  const int64_t now = options_.now();
  if (now - looked_at_ < kLookEvery) return;
  const bool first = looked_at_ == 0;
  looked_at_ = now;
  const Stream* guilty = nullptr;
  for (Link* link : active_) {
    Peer& peer = peers_.find(link->stream.peer())->second;
    if (first || std::exchange(peer.stirred, false)) peer.heard_at = now;
  }
  for (const Link* link : active_) {
    const Stream& stream = link->stream;
    const Peer& peer = peers_.find(stream.peer())->second;
    if (!(stream.sends() || stream.expects())) continue;
    const int64_t silent = now - peer.heard_at;
    if (stream.attached() && silent >= options_.path_timeout.count() &&
        unanswered(stream.socket(), options_.path_timeout))
      return fail(
          Status(Code::kTimeout,
                 fmt::format("tcp: rank {} had no answer from rank {}'s host for {} s in "
                             "operation {:#x}",
                             flow_.self, stream.peer(),
                             static_cast<double>(options_.path_timeout.count()) / 1e9, flow_.tag)));
    if (silent < options_.operation_timeout.count()) continue;
    if (!guilty || (stream.expects(0) && !guilty->expects(0))) guilty = &stream;
  }
  if (!guilty) return;
  const double seconds = static_cast<double>(options_.operation_timeout.count()) / 1e9;
  fail(Status(Code::kPeerLost,
              fmt::format("tcp: rank {} heard nothing from rank {} for {} s in operation {:#x}",
                          flow_.self, guilty->peer(), seconds, flow_.tag)));
}

void Links::retire(Status why) {
  if (broken_.ok()) broken_ = std::move(why);
}

void Links::fail(Status why) {
  retire(std::move(why));
  close();
}

void Links::close() {
  for (auto& [rank, peer] : peers_) {
    for (auto& link : peer.links) {
      if (!link->stream.attached()) continue;
      watch_->remove(link->stream);
      link->stream.close();
    }
  }
}

}  // namespace hora::tcp
