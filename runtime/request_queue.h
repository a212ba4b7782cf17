#pragma once

#include <cstdint>

#include <boost/lockfree/queue.hpp>

namespace hora {

/// The door from callers to the driver: lock-free, many producers, one consumer at a time.
///
/// Threads: push() any; pop() the token holder. Bounded: what does not fit is refused.
class RequestQueue {
 public:
  enum class Kind : uint8_t { kSubmit, kPush, kFlush, kLeave };
  struct Command {
    Kind kind;
    uint32_t value;  ///< an operation's index, or a domain
  };
  static constexpr size_t kCapacity = 65'000;

  RequestQueue() : queue_(kCapacity) {}

  bool push(Kind kind, uint32_t value) {
    return queue_.push(static_cast<uint64_t>(kind) << 32 | value);
  }
  bool pop(Command& command) {
    uint64_t word = 0;
    if (!queue_.pop(word)) return false;
    command = {static_cast<Kind>(word >> 32), static_cast<uint32_t>(word)};
    return true;
  }
  bool empty() const { return queue_.empty(); }

 private:
  boost::lockfree::queue<uint64_t, boost::lockfree::fixed_sized<true>> queue_;
};

}  // namespace hora
