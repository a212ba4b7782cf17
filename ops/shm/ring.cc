#include "ops/shm/ring.h"

#include <algorithm>
#include <cstring>

namespace hora::shm {
namespace {

constexpr size_t kPrefix = sizeof(uint32_t);
static_assert((kRingBytes & (kRingBytes - 1)) == 0, "positions are masked");

uint32_t length_at(const char* bytes) {
  uint32_t length = 0;
  std::memcpy(&length, bytes, kPrefix);
  return length;
}

}  // namespace

Status Outbox::send(std::string_view frame) {
  if (frame.size() > kFrameBytes)
    return {Code::kInvalidArgument, "shm: a control frame of " + std::to_string(frame.size()) +
                                        " bytes is longer than " + std::to_string(kFrameBytes)};
  if (backlog_.size() - sent_ + frame.size() + kPrefix > kBacklogBytes)
    return {Code::kOutOfMemory, "shm: " + std::to_string(backlog_.size() - sent_) +
                                    " bytes of control frames wait for a peer that does not read"};
  const auto length = static_cast<uint32_t>(frame.size());
  const std::string_view prefix(reinterpret_cast<const char*>(&length), kPrefix);
  flush();
  if (!empty()) {
    backlog_.append(prefix).append(frame);
    return {};
  }
  const size_t head = write(prefix);
  const size_t body = head == kPrefix ? write(frame) : 0;
  if (head + body < kPrefix + frame.size())
    backlog_.append(prefix.substr(head)).append(frame.substr(body));
  return {};
}

bool Outbox::flush() {
  if (empty()) return false;
  const size_t written = write(std::string_view(backlog_).substr(sent_));
  sent_ += written;
  if (empty()) {
    backlog_.clear();
    sent_ = 0;
  } else if (sent_ > backlog_.size() / 2) {
    backlog_.erase(0, sent_);
    sent_ = 0;
  }
  return written > 0;
}

size_t Outbox::write(std::string_view bytes) {
  const uint64_t head = ring_->head.load(std::memory_order_relaxed);
  const uint64_t used = head - ring_->tail.load(std::memory_order_acquire);
  if (used >= kRingBytes) return 0;
  const size_t count = std::min<size_t>(bytes.size(), kRingBytes - used);
  const size_t at = head & (kRingBytes - 1);
  const size_t first = std::min(count, kRingBytes - at);
  std::memcpy(ring_->data + at, bytes.data(), first);
  std::memcpy(ring_->data, bytes.data() + first, count - first);
  ring_->head.store(head + count, std::memory_order_release);
  return count;
}

Result<bool> Inbox::receive(const Visit& visit) {
  const uint64_t tail = ring_->tail.load(std::memory_order_relaxed);
  const uint64_t waiting = ring_->head.load(std::memory_order_acquire) - tail;
  if (waiting == 0) return false;
  if (waiting > kRingBytes)
    return Status(Code::kCorrupt, "a control ring holds " + std::to_string(waiting) + " bytes of " +
                                      std::to_string(kRingBytes));
  read(tail, waiting);
  // Room is made before the frames are visited: the writer may go on meanwhile.
  ring_->tail.store(tail + waiting, std::memory_order_release);
  HORA_TRY(deliver(visit));
  return true;
}

void Inbox::read(uint64_t tail, size_t bytes) {
  const size_t at = tail & (kRingBytes - 1);
  const size_t first = std::min(bytes, kRingBytes - at);
  const auto* data = reinterpret_cast<const char*>(ring_->data);
  partial_.append(data + at, first).append(data, bytes - first);
}

Status Inbox::deliver(const Visit& visit) {
  size_t done = 0;
  while (partial_.size() - done >= kPrefix) {
    const size_t length = length_at(partial_.data() + done);
    if (length > kFrameBytes)
      return {Code::kCorrupt, "a control frame claims " + std::to_string(length) + " bytes"};
    if (partial_.size() - done < kPrefix + length) break;
    visit(std::string_view(partial_).substr(done + kPrefix, length));
    done += kPrefix + length;
  }
  partial_.erase(0, done);
  return {};
}

}  // namespace hora::shm
