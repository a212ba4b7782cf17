#include "tests/links/shaper.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hora::links {
namespace {

constexpr size_t kAddressBytes = 6;
/// The kernel's virtio_net_hdr, whose header is none for C++.
struct VirtioHeader {
  uint8_t flags, gso_type;
  uint16_t header_bytes, segment_bytes, checksum_start, checksum_offset;
};
static_assert(sizeof(VirtioHeader) == Shaper::kHeader);

constexpr uint64_t kBetweenFrames = 24;  // preamble, check sum and gap

/// A packet that is to be cut into segments costs each segment's headers.
uint64_t wire_bytes_of(const std::string& packet) {
  VirtioHeader header;
  std::memcpy(&header, packet.data(), sizeof(header));
  const uint64_t frame = packet.size() - Shaper::kHeader;
  uint64_t segments = 1;
  if (header.segment_bytes > 0 && frame > header.header_bytes)
    segments = (frame - header.header_bytes + header.segment_bytes - 1) / header.segment_bytes;
  return frame + kBetweenFrames + (segments - 1) * (kBetweenFrames + header.header_bytes);
}

}  // namespace

Shaper::Shaper(size_t hosts, const Shape& shape)
    : shape_(shape), links_(hosts), blocked_(hosts, std::vector<bool>(hosts)) {}

std::string Shaper::address(size_t host) {
  return {2, 0, 0, 0, 0, static_cast<char>(host + 1)};  // 2: locally administered
}

int64_t Shaper::time_for(uint64_t bytes) const {
  if (shape_.bits_per_second <= 0) return 0;
  return static_cast<int64_t>(8e9 * static_cast<double>(bytes) / shape_.bits_per_second);
}

void Shaper::offer(int64_t now, size_t from, std::string packet) {
  if (packet.size() < kHeader + 2 * kAddressBytes) return;
  Link& link = links_[from];
  const uint64_t bytes = wire_bytes_of(packet);
  const int64_t backlog = std::max<int64_t>(0, link.sends_until - now);
  const bool full = backlog + time_for(bytes) > time_for(shape_.queue_bytes);
  const bool lost = std::uniform_real_distribution<double>()(random_) < shape_.loss;
  if (full || lost) {
    ++link.counts.dropped;
    return;
  }
  link.counts.sent += bytes;
  link.sends_until = now + backlog + time_for(bytes);
  const int64_t arrives = link.sends_until + shape_.delay_ns;
  const std::string to = packet.substr(kHeader, kAddressBytes);
  for (size_t i = 0; i < links_.size(); ++i)
    if (to == address(i)) return send(arrives, from, i, bytes, std::move(packet));
  if ((to[0] & 1) == 0) return;  // of no host
  for (size_t i = 0; i < links_.size(); ++i) send(arrives, from, i, bytes, packet);
}

void Shaper::send(int64_t arrives, size_t from, size_t to, uint64_t wire_bytes,
                  std::string packet) {
  if (from == to) return;
  if (blocked_[from][to])
    ++links_[from].counts.dropped;
  else
    links_[to].crossing.emplace(arrives, Packet{std::move(packet), 0, from, wire_bytes});
}

/// What has reached the link by now gets its time there, or finds the queue before it full.
void Shaper::receive(int64_t now, Link& link) {
  while (!link.crossing.empty() && link.crossing.begin()->first <= now) {
    const int64_t arrives = link.crossing.begin()->first;
    Packet packet = std::move(link.crossing.begin()->second);
    link.crossing.erase(link.crossing.begin());
    // The last byte cannot arrive before that link has carried it.
    packet.due = std::max(arrives, link.receives_until + time_for(packet.wire_bytes));
    if (packet.due > arrives && packet.due - arrives > time_for(shape_.queue_bytes)) {
      ++links_[packet.from].counts.dropped;
      continue;
    }
    link.receives_until = packet.due;
    link.counts.received += packet.wire_bytes;
    link.arriving.push_back(std::move(packet));
  }
}

std::optional<Packet> Shaper::take(int64_t now, size_t to) {
  receive(now, links_[to]);
  std::deque<Packet>& arriving = links_[to].arriving;
  if (arriving.empty() || arriving.front().due > now) return {};
  Packet packet = std::move(arriving.front());
  arriving.pop_front();
  return packet;
}

std::optional<int64_t> Shaper::next() const {
  std::optional<int64_t> soonest;
  const auto look_at = [&](int64_t time) {
    if (!soonest || time < *soonest) soonest = time;
  };
  for (const Link& link : links_) {
    if (!link.arriving.empty()) look_at(link.arriving.front().due);
    if (!link.crossing.empty()) look_at(link.crossing.begin()->first);
  }
  return soonest;
}

}  // namespace hora::links
