#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace hora::links {

/// What joins each host to the switch.
struct Shape {
  double bits_per_second = 0;      ///< each way, both at once; 0: no limit
  int64_t delay_ns = 0;            ///< from host to host, besides the time to send
  uint64_t queue_bytes = 4 << 20;  ///< what a link holds back before it drops
  double loss = 0;                 ///< probability that a packet is dropped
};

/// What one host saw.
struct Counts {
  uint64_t sent = 0, received = 0;  ///< bytes on the wire
  uint64_t dropped = 0;             ///< packets of its own: lost, blocked, or over the queue
};

/// A packet as a tap device with virtio headers gives and takes it.
struct Packet {
  std::string bytes;
  int64_t due = 0;
  size_t from = 0;
  uint64_t wire_bytes = 0;
};

/// The switch's links: says when which packet arrives where. Pure: told the time, moves nothing.
/// A packet occupies its sender's link, travels for the delay, and occupies the receiver's link
/// too, so that many senders share one receiver's rate. That link serves packets in the order in
/// which they reach it, not in which they were offered: one that still waits in its sender's queue
/// holds nobody up. Host `i` has hardware address address(i).
class Shaper {
 public:
  Shaper(size_t hosts, const Shape& shape);

  static constexpr size_t kHeader = 10;  ///< of virtio, before the Ethernet frame
  static std::string address(size_t host);

  void offer(int64_t now, size_t from, std::string packet);
  /// The next packet for `to` that is due. Times must not go back.
  std::optional<Packet> take(int64_t now, size_t to);
  /// When to look again.
  std::optional<int64_t> next() const;

  /// From now on what `from` sends to `to` vanishes, or does not any more.
  void block(size_t from, size_t to, bool blocked) { blocked_[from][to] = blocked; }
  void set_loss(double loss) { shape_.loss = loss; }
  const Shape& shape() const { return shape_; }
  const Counts& counts(size_t host) const { return links_[host].counts; }

 private:
  struct Link {
    int64_t sends_until = 0, receives_until = 0;
    std::multimap<int64_t, Packet> crossing;  // by when they reach this link, then as offered
    std::deque<Packet> arriving;              // on it, in the order of their times
    Counts counts;
  };

  void send(int64_t arrives, size_t from, size_t to, uint64_t wire_bytes, std::string packet);
  void receive(int64_t now, Link& link);
  int64_t time_for(uint64_t bytes) const;

  Shape shape_;
  std::vector<Link> links_;
  std::vector<std::vector<bool>> blocked_;
  std::mt19937_64 random_{1};
};

}  // namespace hora::links
