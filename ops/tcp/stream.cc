#include "ops/tcp/stream.h"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace hora::tcp {
namespace {

constexpr size_t kPieces = 64;             // of memory in one system call
constexpr size_t kBurstBytes = 512 << 10;  // in one system call, so that other streams have a turn

iovec part_of(Header& header, size_t done) {
  return {reinterpret_cast<std::byte*>(&header) + done, kHeaderBytes - done};
}

size_t total(std::span<const iovec> pieces) {
  size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

std::string describe(const Header& header) {
  return fmt::format("message {}.{} of operation {:#x} of epoch {}, {} bytes", header.channel,
                     header.index, header.tag, header.epoch, header.bytes);
}

}  // namespace

void Stream::begin() {
  for (auto* queues : {&outgoing_, &incoming_}) {
    for (Queue& queue : *queues) {
      queue.messages.clear();
      queue.next = 0;
    }
  }
}

void Stream::send(uint32_t channel, const Message& message) {
  outgoing_[channel].messages.push_back(message);
  ++flow_.pending;
}

void Stream::expect(uint32_t channel, const Message& message) {
  incoming_[channel].messages.push_back(message);
  ++flow_.pending;
}

void Stream::note(bool readable, bool writable) {
  if (readable) readable_.store(true, std::memory_order_relaxed);
  if (writable) writable_.store(true, std::memory_order_relaxed);
}

Stream::Moved Stream::move() {
  Moved out = Moved::kNothing, in = Moved::kNothing;
  if (sends()) out = push();
  if (out != Moved::kFailed && expects()) in = pull();
  return std::max(out, in);
}

bool Stream::choose_outgoing() {
  if (out_channel_ < kChannels) return true;
  for (uint32_t channel = kChannels; channel-- > 0;) {
    if (!outgoing_[channel].waits()) continue;
    const Message& message = outgoing_[channel].front();
    out_channel_ = channel;
    out_done_ = 0;
    out_header_ = {Header::kMagic, flow_.epoch, flow_.tag, channel, message.index, message.bytes};
    return true;
  }
  return false;
}

// A flag is cleared before the system call: what comes between the call and its clearing would be
// forgotten otherwise.
Stream::Moved Stream::push() {
  Moved moved = Moved::kNothing;
  for (size_t left = kBurstBytes; left > 0 && choose_outgoing();) {
    const Message& message = outgoing_[out_channel_].front();
    std::array<iovec, kPieces> pieces;
    size_t used = 0, payload_done = 0;
    if (out_done_ < kHeaderBytes)
      pieces[used++] = part_of(out_header_, out_done_);
    else
      payload_done = out_done_ - kHeaderBytes;
    const size_t stop = std::min(message.bytes, payload_done + left);
    used += message.memory->describe(message.begin + payload_done, message.begin + stop,
                                     std::span(pieces).subspan(used));
    const auto filled = std::span(pieces).first(used);
    const size_t wanted = total(filled);
    writable_.store(false, std::memory_order_relaxed);
    const ssize_t sent = socket_.write(filled.data(), filled.size());
    if (sent < 0 && errno == EAGAIN) return moved;
    if (sent < 0) return lost(socket_.failure().message());
    const auto bytes = static_cast<size_t>(sent);
    moved = Moved::kSomething;
    flow_.moved += bytes;
    out_done_ += bytes;
    left -= std::min(left, bytes);
    if (out_done_ == kHeaderBytes + message.bytes) {
      out_channel_ = kChannels;
      ++outgoing_[out_header_.channel].next;
      --flow_.pending;
    }
    if (bytes < wanted) return moved;
    writable_.store(true, std::memory_order_relaxed);
  }
  return moved;
}

/// Where the next message's bytes go if only one can come, so that a small one takes one call.
const Message* Stream::predicted() const {
  if (incoming_[0].waits() == incoming_[1].waits()) return nullptr;
  if (incoming_[1].waits()) return &incoming_[1].front();
  const Message& message = incoming_[0].front();
  return message.index < flow_.admitted ? &message : nullptr;
}

bool Stream::more_follow() const {
  const size_t left = incoming_[0].messages.size() - incoming_[0].next +
                      incoming_[1].messages.size() - incoming_[1].next;
  return left > 1;
}

Stream::Moved Stream::pull() {
  Moved moved = Moved::kNothing;
  for (size_t left = kBurstBytes; left > 0 && expects();) {
    std::array<iovec, kPieces> pieces;
    size_t used = 0;
    const bool in_header = at_channel_ == kChannels;
    if (in_header) pieces[used++] = part_of(in_header_, in_header_done_);
    if (!in_header && !admitted()) return moved;
    const Message* const message = in_header ? predicted() : &front_in();
    size_t payload = 0;
    if (message) {
      const size_t from = in_header ? 0 : in_done_;
      const size_t stop = std::min(message->bytes, from + left);
      const size_t room = kPieces - used - 1;
      used += message->memory->describe(message->begin + from, message->begin + stop,
                                        std::span(pieces).subspan(used, room));
      payload = total(std::span(pieces).subspan(in_header ? 1 : 0, used - (in_header ? 1 : 0)));
      if (!in_header && from + payload == message->bytes && more_follow())
        pieces[used++] = part_of(in_header_, 0);
    }
    const auto filled = std::span(pieces).first(used);
    const size_t wanted = total(filled);
    readable_.store(false, std::memory_order_relaxed);
    const ssize_t got = socket_.read(filled.data(), filled.size());
    if (got < 0 && errno == EAGAIN) return moved;
    if (got <= 0) return lost(got < 0 ? socket_.failure().message() : "it closed the connection");
    auto bytes = static_cast<size_t>(got);
    moved = Moved::kSomething;
    flow_.moved += bytes;
    left -= std::min(left, bytes);
    const bool all = bytes == wanted;
    if (in_header) {
      const size_t part = std::min(bytes, kHeaderBytes - in_header_done_);
      in_header_done_ += part;
      bytes -= part;
      if (in_header_done_ == kHeaderBytes && !take_header()) return Moved::kFailed;
    }
    if (at_channel_ < kChannels) {
      const size_t part = std::min(bytes, payload);
      in_done_ += part;
      bytes -= part;
      if (in_done_ == front_in().bytes) {
        end_incoming();
        in_header_done_ = bytes;  // of the next one
        if (in_header_done_ == kHeaderBytes && !take_header()) return Moved::kFailed;
        if (at_channel_ < kChannels && front_in().bytes == 0) end_incoming();
      }
    }
    if (!all) return moved;
    readable_.store(true, std::memory_order_relaxed);
  }
  return moved;
}

bool Stream::take_header() {
  Header wanted{Header::kMagic, flow_.epoch, flow_.tag, in_header_.channel, 0, 0};
  const bool known = in_header_.channel < kChannels && incoming_[in_header_.channel].waits();
  if (!known) {  // for the message: what would have been right
    wanted.channel = incoming_[0].waits() ? 0 : 1;
  }
  const Message& message = incoming_[wanted.channel].front();
  wanted.index = message.index;
  wanted.bytes = message.bytes;
  if (!(in_header_ == wanted)) {
    const std::string got = in_header_.magic == Header::kMagic
                                ? describe(in_header_)
                                : fmt::format("no message at all ({:#010x})", in_header_.magic);
    (void)fail(fmt::format("sent {}; rank {} expected {}", got, flow_.self, describe(wanted)));
    return false;
  }
  at_channel_ = in_header_.channel;
  in_done_ = 0;
  return true;
}

void Stream::end_incoming() {
  ++incoming_[at_channel_].next;
  --flow_.pending;
  at_channel_ = kChannels;
  in_header_done_ = 0;
}

Stream::Moved Stream::fail(std::string what) {
  error_ = Status(Code::kCorrupt, fmt::format("tcp: rank {} {}", peer_, what));
  return Moved::kFailed;
}

Stream::Moved Stream::lost(const std::string& why) {
  error_ = Status(Code::kPeerLost, fmt::format("tcp: rank {} lost rank {} in operation {:#x}: {}",
                                               flow_.self, peer_, flow_.tag, why));
  return Moved::kFailed;
}

}  // namespace hora::tcp
