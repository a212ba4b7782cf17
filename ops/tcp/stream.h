#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/tcp/header.h"
#include "ops/tcp/memory.h"
#include "ops/tcp/socket.h"

namespace hora::tcp {

/// A message of an operation: bytes [begin, begin + bytes) of somebody's memory, which must outlive
/// it.
struct Message {
  const Memory* memory = nullptr;
  size_t begin = 0, bytes = 0;
  uint32_t index = 0;
};

/// What all streams of a lane share.
struct Flow {
  Rank self = 0;
  uint32_t epoch = 0;
  uint64_t tag = 0;       ///< of the operation in progress
  uint32_t admitted = 0;  ///< messages of channel 0 below this index have a place to go to
  uint64_t pending = 0;   ///< messages to send or receive
  uint64_t moved = 0;     ///< bytes, in both directions
};

/// One connection to a peer on one lane. Messages go in order within a channel; of two channels
/// that have something to send, the higher goes first. So what an owner has reduced overtakes what
/// others are yet to reduce, and nothing waits for what depends on it.
///
/// The receiver knows which messages an operation brings on which stream. It reads no further than
/// that, so a peer that is ahead fills its socket's buffer and then waits.
///
/// Threads: the lane's driver; note() any.
class Stream {
 public:
  static constexpr size_t kChannels = 2;
  enum class Moved : uint8_t { kNothing, kSomething, kFailed };

  Stream(Flow& flow, Rank peer) : flow_(flow), peer_(peer) {}

  Rank peer() const { return peer_; }
  bool attached() const { return socket_.valid(); }
  int socket() const { return socket_.get(); }
  void attach(Socket socket) { socket_ = std::move(socket); }
  void close() { socket_.reset(); }

  /// Forgets the last operation's messages.
  void begin();
  void send(uint32_t channel, const Message& message);
  void expect(uint32_t channel, const Message& message);

  bool sends() const { return outgoing_[0].waits() || outgoing_[1].waits(); }
  bool expects() const { return incoming_[0].waits() || incoming_[1].waits(); }
  bool expects(uint32_t channel) const { return incoming_[channel].waits(); }
  /// Messages of a channel that this operation has brought whole.
  size_t received(uint32_t channel) const { return incoming_[channel].next; }

  /// Whether the kernel may have news; false only after it said no.
  bool stirs() const {
    return (sends() && writable_.load(std::memory_order_relaxed)) ||
           (expects() && readable_.load(std::memory_order_relaxed));
  }
  void note(bool readable, bool writable);

  /// One bounded attempt in each direction.
  Moved move();
  const Status& error() const { return error_; }

 private:
  struct Queue {
    std::vector<Message> messages;
    size_t next = 0;
    bool waits() const { return next < messages.size(); }
    const Message& front() const { return messages[next]; }
  };
  Moved push();
  Moved pull();
  bool choose_outgoing();
  bool take_header();
  const Message* predicted() const;
  bool admitted() const { return at_channel_ != 0 || front_in().index < flow_.admitted; }
  const Message& front_in() const { return incoming_[at_channel_].front(); }
  bool more_follow() const;
  void end_incoming();
  Moved fail(std::string what);
  Moved lost(const std::string& why);

  Flow& flow_;
  const Rank peer_;
  Socket socket_;
  std::atomic<bool> readable_{true}, writable_{true};
  std::array<Queue, kChannels> outgoing_, incoming_;

  Header out_header_, in_header_;
  uint32_t out_channel_ = kChannels, at_channel_ = kChannels;  ///< kChannels: between messages
  size_t out_done_ = 0;                                        ///< of header and payload
  size_t in_header_done_ = 0, in_done_ = 0;
  Status error_;
};

}  // namespace hora::tcp
