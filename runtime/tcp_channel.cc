#include "runtime/tcp_channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

namespace hora {
namespace {

constexpr size_t kPrefix = sizeof(uint32_t);
constexpr size_t kFrameBytes = size_t{64} << 20;    ///< the longest frame
constexpr size_t kBacklogBytes = size_t{64} << 20;  ///< what may wait for a neighbor
constexpr size_t kChunk = size_t{64} << 10;         ///< read at once

uint32_t length_at(const char* bytes) {
  uint32_t length = 0;
  std::memcpy(&length, bytes, kPrefix);
  return length;
}

/// One neighbor: what waits to be sent, what has come of a frame, and how it ended.
class Link {
 public:
  explicit Link(TcpLink link) : link_(std::move(link)) {}

  Rank rank() const { return link_.rank; }
  int socket() const { return link_.socket.get(); }
  bool open() const { return link_.socket.valid() && !ended_; }
  bool ended() const { return ended_; }
  bool waits() const { return sent_ < backlog_.size(); }
  void close() { link_.socket.reset(); }

  Status send(std::string_view frame) {
    if (frame.size() > kFrameBytes)
      return Status(Code::kInvalidArgument,
                    fmt::format("tcp: a control frame of {} bytes is longer than {}", frame.size(),
                                kFrameBytes));
    if (backlog_.size() - sent_ + kPrefix + frame.size() > kBacklogBytes)
      return Status(Code::kOutOfMemory,
                    fmt::format("{} bytes of control frames wait for it, and it does not read",
                                backlog_.size() - sent_));
    if (deaf_) return {};  // what it said before it went comes first; then it is lost
    const auto length = static_cast<uint32_t>(frame.size());
    backlog_.append(reinterpret_cast<const char*>(&length), kPrefix).append(frame);
    flush();
    return {};
  }

  void flush() {
    while (open() && waits() && !deaf_) {
      const ssize_t sent = link_.socket.write(std::string_view(backlog_).substr(sent_));
      if (sent >= 0) {
        sent_ += static_cast<size_t>(sent);
      } else if (errno == EAGAIN) {
        break;
      } else {
        deaf_ = true;
      }
    }
    if (deaf_ || !waits()) {
      backlog_.clear();
      sent_ = 0;
    } else if (sent_ > backlog_.size() / 2) {
      backlog_.erase(0, sent_);
      sent_ = 0;
    }
  }

  /// Visits the whole frames that have come; nothing if there were none.
  bool receive(const ControlChannel::Visit& visit, std::array<char, kChunk>& chunk) {
    bool any = false;
    while (open()) {
      const ssize_t got = link_.socket.read(chunk.data(), chunk.size());
      if (got > 0) {
        partial_.append(chunk.data(), static_cast<size_t>(got));
        any |= deliver(visit);
        if (static_cast<size_t>(got) < chunk.size()) break;
      } else if (got == 0) {
        end("it closed its connection");
      } else if (errno == EAGAIN) {
        break;
      } else {
        end("its connection broke: " + link_.socket.failure().message());
      }
    }
    return any;
  }

  /// Why it was lost, once.
  std::string take_cause() { return std::exchange(cause_, {}); }
  bool has_cause() const { return !cause_.empty(); }

 private:
  bool deliver(const ControlChannel::Visit& visit) {
    size_t done = 0;
    while (open() && partial_.size() - done >= kPrefix) {
      const size_t length = length_at(partial_.data() + done);
      if (length > kFrameBytes) {
        end(fmt::format("protocol: a control frame claims {} bytes", length));
        break;
      }
      if (partial_.size() - done < kPrefix + length) break;
      visit(rank(), std::string_view(partial_).substr(done + kPrefix, length));
      done += kPrefix + length;
    }
    partial_.erase(0, done);
    return done > 0;
  }

  void end(std::string cause) {
    cause_ = std::move(cause);
    ended_ = true;
  }

  TcpLink link_;
  std::string backlog_, partial_, cause_;
  size_t sent_ = 0;  ///< of the backlog
  bool ended_ = false;
  bool deaf_ = false;  ///< it takes no more; what it has sent may still be read
};

class TcpChannel final : public ControlChannel {
 public:
  TcpChannel(std::unique_ptr<ControlChannel> inside, std::vector<TcpLink> links,
             std::function<void()> on_fork)
      : inside_(std::move(inside)),
        on_fork_(std::move(on_fork)),
        arrivals_(::epoll_create1(EPOLL_CLOEXEC)),
        death_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    for (const int descriptor : inside_->watched()) watched_.push_back(descriptor);
    watched_.push_back(death_.get());
    links_.reserve(links.size());
    for (TcpLink& link : links) links_.emplace_back(std::move(link));
    for (size_t i = 0; i < links_.size(); ++i) control(EPOLL_CTL_ADD, i, EPOLLIN);
    blocked_.resize(links_.size());
  }

  Bell bell() const override { return inside_->bell(); }

  Status send(Rank to, std::string_view frame) override {
    const auto link = std::find_if(links_.begin(), links_.end(),
                                   [&](const Link& each) { return each.rank() == to; });
    if (link == links_.end()) return inside_->send(to, frame);
    HORA_TRY(link->send(frame));
    return {};
  }

  bool flush() override {
    bool all = inside_->flush();
    for (size_t i = 0; i < links_.size(); ++i) {
      Link& link = links_[i];
      link.flush();
      const bool blocked = link.open() && link.waits();
      all &= !blocked;
      if (blocked == static_cast<bool>(blocked_[i])) continue;
      // Who sleeps is woken when there is room again.
      blocked_[i] = blocked;
      control(EPOLL_CTL_MOD, i, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    return all;
  }

  bool receive(const Visit& visit) override {
    bool any = inside_->receive(visit);
    std::array<epoll_event, 16> events;
    const int count =
        ::epoll_wait(arrivals_.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i)
      any |= receive_from(events[static_cast<size_t>(i)].data.u64, visit);
    // Frames that came with the handshake's last words have been taken from the system already.
    if (!std::exchange(begun_, true))
      for (size_t i = 0; i < links_.size(); ++i) any |= receive_from(i, visit);
    return any;
  }

  Status corrupt() const override { return inside_->corrupt(); }
  std::span<const int> watched() const override { return watched_; }
  int arrivals() const override { return arrivals_.get(); }

  std::vector<Lost> lost() override {
    std::vector<Lost> gone = inside_->lost();
    for (Link& link : links_)
      if (link.has_cause()) gone.push_back({link.rank(), link.take_cause()});
    return gone;
  }

  void forget_in_child() override {
    for (Link& link : links_) link.close();
    arrivals_.reset();
    death_.reset();
    if (on_fork_) on_fork_();
    inside_->forget_in_child();
  }

 private:
  bool receive_from(size_t index, const Visit& visit) {
    Link& link = links_[index];
    if (!link.open()) return false;
    const bool any = link.receive(visit, chunk_);
    if (!link.ended()) return any;
    control(EPOLL_CTL_DEL, index, 0);
    link.close();
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(death_.get(), &one, sizeof(one));
    return any;
  }

  void control(int operation, size_t index, uint32_t events) const {
    epoll_event event{};
    event.events = events;
    event.data.u64 = index;
    ::epoll_ctl(arrivals_.get(), operation, links_[index].socket(), &event);
  }

  const std::unique_ptr<ControlChannel> inside_;
  const std::function<void()> on_fork_;
  Descriptor arrivals_;  ///< epoll over all links
  Descriptor death_;     ///< written once a link has ended
  std::vector<Link> links_;
  std::vector<char> blocked_;  ///< by link: it is known to arrivals_ that frames wait for room
  std::vector<int> watched_;
  bool begun_ = false;  ///< receive() was called
  std::array<char, kChunk> chunk_;
};

}  // namespace

std::unique_ptr<ControlChannel> open_tcp_channel(std::unique_ptr<ControlChannel> inside,
                                                 std::vector<TcpLink> links,
                                                 std::function<void()> on_fork) {
  return std::make_unique<TcpChannel>(std::move(inside), std::move(links), std::move(on_fork));
}

}  // namespace hora
