#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "hora/status.h"
#include "ops/shm/window.h"

namespace hora::shm {

constexpr size_t kFrameBytes = 64 << 20;    ///< the longest frame
constexpr size_t kBacklogBytes = 64 << 20;  ///< what may wait for room in a ring

/// The writing end of a ring. A frame travels as its length (4 bytes, little-endian) and its bytes;
/// what finds no room waits here and is written by flush() as the reader makes room.
///
/// Ownership: borrows the ring. Threads: one at a time.
class Outbox {
 public:
  explicit Outbox(Ring* ring) : ring_(ring) {}

  /// Errors: kInvalidArgument (longer than kFrameBytes), kOutOfMemory (the backlog is full); the
  /// frame was not queued then.
  Status send(std::string_view frame);
  bool flush();  ///< returns whether anything went out
  bool empty() const { return sent_ == backlog_.size(); }

 private:
  size_t write(std::string_view bytes);
  Ring* ring_;
  std::string backlog_;
  size_t sent_ = 0;  ///< of the backlog
};

/// The reading end. Threads: one at a time.
class Inbox {
 public:
  using Visit = std::function<void(std::string_view frame)>;
  explicit Inbox(Ring* ring) : ring_(ring) {}

  /// Calls `visit` for every whole frame and returns whether any byte came. Errors: kCorrupt for a
  /// length or position that no writer makes.
  Result<bool> receive(const Visit& visit);

 private:
  void read(uint64_t at, size_t bytes);
  Status deliver(const Visit& visit);
  Ring* ring_;
  std::string partial_;
};

}  // namespace hora::shm
