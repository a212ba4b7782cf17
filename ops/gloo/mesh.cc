#include "ops/gloo/mesh.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include <gloo/transport/address.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/unbound_buffer.h>

namespace hora::gloo {
namespace {

constexpr int kAttempts = 5;
// Of one attempt's connecting and greeting, once every member has published its addresses.
constexpr std::chrono::milliseconds kAttemptTimeout{3000};
// An abort ends a wait for the store within this.
constexpr std::chrono::milliseconds kSlice{50};
// A member slower than this (1 MiB a second) counts as silent.
constexpr size_t kBytesPerMillisecond = 1024;
constexpr uint64_t kGreetingSlot = 0;
constexpr uint64_t kTripwireSlot = UINT64_MAX;

constexpr std::string_view kGood = "good";
constexpr std::string_view kAgain = "again: ";

}  // namespace

Mesh::Mesh(std::shared_ptr<::gloo::transport::Device> device, const PluginContext& context,
           std::string prefix, std::vector<Rank> ranks, int member)
    : device_(std::move(device)),
      context_(context),
      prefix_(std::move(prefix)),
      ranks_(std::move(ranks)),
      member_(member) {}

Mesh::~Mesh() {
  clear();
}

bool Mesh::aborted() {
  const std::lock_guard lock(mutex_);
  return aborted_;
}

std::string Mesh::peer_name(int peer) const {
  return "rank " + std::to_string(ranks_[static_cast<size_t>(peer)]);
}

Status Mesh::failure(int peer, const std::string& what) const {
  const bool silent = what.find("Timed out waiting") != std::string::npos;
  return Status(silent ? Code::kTimeout : Code::kPeerLost,
                "gloo: lost the connection to " + peer_name(peer) + ": " + what);
}

// Set-up.

Status Mesh::publish(const std::string& key, std::string_view value) {
  return context_.publish(prefix_ + key, value);
}

Result<std::string> Mesh::lookup(const std::string& key, int peer, Milliseconds& budget) {
  while (!aborted()) {
    const Milliseconds slice = std::min(kSlice, budget);
    Result<std::string> value = context_.lookup(prefix_ + key, slice);
    if (value.ok() || value.status().code() != Code::kTimeout) return value;
    budget -= slice;
    if (budget.count() <= 0)
      return Status(Code::kTimeout, "gloo: " + peer_name(peer) + " did not come to set up " +
                                        prefix_ +
                                        " in time; is it alive, and in the same operation?");
  }
  return Status(Code::kPeerLost, "gloo: set-up was aborted while waiting for " + peer_name(peer));
}

/// Opens one port for each other member. `addresses` are theirs in order, all of one length.
Status Mesh::listen(std::string& addresses) {
  try {
    auto transport = device_->createContext(member_, size());
    transport->setTimeout(kAttemptTimeout);
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == member_) continue;
      const std::vector<char> address = transport->createPair(peer)->address().bytes();
      addresses.append(address.begin(), address.end());
    }
    const std::lock_guard lock(mutex_);
    transport_ = std::move(transport);
    return {};
  } catch (const std::exception& error) {
    addresses.clear();
    return Status(Code::kUnavailable, std::string("gloo: cannot listen: ") + error.what());
  }
}

Status Mesh::link(const std::vector<std::string>& addresses) {
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == member_) continue;
    const std::string& all = addresses[static_cast<size_t>(peer)];
    const size_t length = all.size() / (ranks_.size() - 1);
    if (length == 0)
      return Status(Code::kUnavailable, "gloo: " + peer_name(peer) + " cannot listen");
    // A member has no address for itself.
    const auto index = static_cast<size_t>(member_ < peer ? member_ : member_ - 1);
    const auto begin = all.begin() + static_cast<ptrdiff_t>(index * length);
    try {
      transport_->getPair(peer)->connect(
          std::vector<char>(begin, begin + static_cast<ptrdiff_t>(length)));
    } catch (const std::exception& error) {
      return failure(peer, error.what());
    }
  }
  return {};
}

/// Exchanges prefix and number with every member, so that a stranger is not taken for one.
Status Mesh::greet() {
  const std::string mine = prefix_ + "#" + std::to_string(member_);
  std::vector<std::string> theirs;
  for (int peer = 0; peer < size(); ++peer)
    theirs.push_back(std::string((prefix_ + "#" + std::to_string(peer)).size(), '?'));
  const auto exchange = [&]() -> Status {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == member_) continue;
      std::string& greeting = theirs[static_cast<size_t>(peer)];
      HORA_TRY(receive(peer, kGreetingSlot, reinterpret_cast<std::byte*>(greeting.data()),
                       greeting.size()));
      HORA_TRY(
          send(peer, kGreetingSlot, reinterpret_cast<const std::byte*>(mine.data()), mine.size()));
    }
    for (Message& message : in_flight_) {
      try {
        if (!complete(message, kAttemptTimeout)) return Status(Code::kPeerLost, "gloo: aborted");
      } catch (const std::exception& error) {
        return failure(message.peer, error.what());
      }
    }
    for (int peer = 0; peer < size(); ++peer)
      if (peer != member_ &&
          theirs[static_cast<size_t>(peer)] != prefix_ + "#" + std::to_string(peer))
        return Status(Code::kPeerLost, "gloo: a stranger answered for " + peer_name(peer));
    return {};
  };
  Status outcome = exchange();
  if (!outcome.ok()) close();  // before the memory goes: what arrives then has no place
  clear();
  return outcome;
}

/// `outcome` is how connecting went; the return value is not ok when trying again is hopeless.
Status Mesh::attempt(const std::string& prefix, Milliseconds& budget, Status& outcome) {
  std::string mine;
  outcome = listen(mine);
  HORA_TRY(publish(prefix + "address/" + std::to_string(member_), mine));
  std::vector<std::string> addresses;
  for (int peer = 0; peer < size(); ++peer) {
    Result<std::string> theirs = lookup(prefix + "address/" + std::to_string(peer), peer, budget);
    HORA_TRY(theirs.status());
    addresses.push_back(std::move(theirs).value());
  }
  if (outcome.ok()) outcome = link(addresses);
  if (outcome.ok()) outcome = greet();
  return {};
}

/// Turns each member's own outcome into one that all share.
Status Mesh::agree(const std::string& prefix, Milliseconds& budget, Status& outcome) {
  const std::string mine = outcome.ok() ? std::string(kGood) : kAgain.data() + outcome.message();
  if (member_ != 0) {
    HORA_TRY(publish(prefix + "outcome/" + std::to_string(member_), mine));
  } else {
    std::string verdict = mine;
    for (int peer = 1; peer < size(); ++peer) {
      const auto theirs = lookup(prefix + "outcome/" + std::to_string(peer), peer, budget);
      HORA_TRY(theirs.status());
      if (verdict == kGood) verdict = theirs.value();
    }
    HORA_TRY(publish(prefix + "verdict", verdict));
  }
  const auto verdict = lookup(prefix + "verdict", 0, budget);
  HORA_TRY(verdict.status());
  outcome = verdict.value() == kGood ? Status() : Status(Code::kPeerLost, verdict.value());
  return {};
}

Status Mesh::connect() {
  if (connected_ || size() == 1) return {};
  Milliseconds budget = context_.setup_timeout;
  Status outcome;
  for (int number = 0; number < kAttempts; ++number) {
    const std::string prefix = std::to_string(number) + "/";
    HORA_TRY(attempt(prefix, budget, outcome));
    HORA_TRY(agree(prefix, budget, outcome));
    connected_ = outcome.ok();
    if (connected_) return set_tripwires();
    close();
  }
  return Status(Code::kPeerLost, "gloo: " + prefix_ + " was not set up in " +
                                     std::to_string(kAttempts) +
                                     " attempts; the last: " + outcome.message());
}

// Messages.

Status Mesh::begin(int peer, uint64_t slot, std::byte* data, size_t bytes, bool sending) {
  if (bytes == 0) return {};
  try {
    auto buffer = transport_->createUnboundBuffer(data, bytes);
    ::gloo::transport::UnboundBuffer& ours = *buffer;
    {
      const std::lock_guard lock(mutex_);
      if (aborted_) return Status(Code::kPeerLost, "gloo: the operation was aborted");
      in_flight_.push_back({std::move(buffer), peer, sending});
    }
    begun_bytes_ += bytes;
    sending ? ours.send(peer, slot) : ours.recv(peer, slot);
    return {};
  } catch (const std::exception& error) {
    return failure(peer, error.what());
  }
}

Status Mesh::send(int peer, uint64_t slot, const std::byte* data, size_t bytes) {
  return begin(peer, slot, const_cast<std::byte*>(data), bytes, true);
}

Status Mesh::receive(int peer, uint64_t slot, std::byte* data, size_t bytes) {
  return begin(peer, slot, data, bytes, false);
}

bool Mesh::complete(Message& message, Milliseconds timeout) {
  if (std::exchange(message.waited, true)) return true;
  return message.sending ? message.buffer->waitSend(nullptr, timeout)
                         : message.buffer->waitRecv(nullptr, timeout);
}

Status Mesh::wait(size_t index) {
  Message& message = in_flight_[index];
  // Links are shared: this message may have to wait for all the others.
  const Milliseconds timeout =
      context_.operation_timeout + Milliseconds(begun_bytes_ / kBytesPerMillisecond);
  std::string lost;
  try {
    waiting_for(index);
    const bool came = complete(message, timeout);
    waiting_for(kNone);
    if (came) return {};
    {
      const std::lock_guard lock(mutex_);
      lost = severed(message.peer);
    }
    if (lost.empty())
      return Status(Code::kPeerLost,
                    "gloo: the operation was aborted while waiting for " + peer_name(message.peer));
    // It may have come whole just before the end. watch() may have interrupted twice, and an
    // interrupted look sees nothing; it does no more since nothing is waited for.
    for (int look = 0; look < 2; ++look) {
      message.waited = false;
      if (complete(message, Milliseconds(0))) return {};
    }
  } catch (const std::exception& error) {
    waiting_for(kNone);
    if (lost.empty()) lost = error.what();
  }
  return failure(message.peer, lost);
}

void Mesh::waiting_for(size_t message) {
  const std::lock_guard lock(mutex_);
  waiting_ = message;
}

Status Mesh::set_tripwires() {
  const std::lock_guard lock(mutex_);
  tripwires_.resize(ranks_.size());
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == member_) continue;
    auto& tripwire = tripwires_[static_cast<size_t>(peer)];
    try {
      tripwire = transport_->createUnboundBuffer(&never_, sizeof(never_));
      tripwire->recv(peer, kTripwireSlot);
    } catch (const std::exception& error) {
      return failure(peer, error.what());
    }
  }
  return {};
}

/// Why the connection to `peer` has ended; empty while it has not. Called under mutex_.
std::string Mesh::severed(int peer) {
  const auto index = static_cast<size_t>(peer);
  if (index >= tripwires_.size() || !tripwires_[index]) return {};
  try {
    // Gloo has no look without a wait; but a wait that was aborted before it began is one.
    tripwires_[index]->abortWaitRecv();
    (void)tripwires_[index]->waitRecv(nullptr, kSlice);
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

void Mesh::watch() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || waiting_ >= in_flight_.size()) return;
  const Message& message = in_flight_[waiting_];
  if (severed(message.peer).empty()) return;
  message.buffer->abortWaitSend();
  message.buffer->abortWaitRecv();
}

Status Mesh::wait_for_all() {
  for (size_t i = 0; i < in_flight_.size(); ++i) HORA_TRY(wait(i));
  return {};
}

void Mesh::clear() {
  std::vector<Message> ended;
  {
    const std::lock_guard lock(mutex_);
    ended.swap(in_flight_);
  }
  // A buffer's end waits for the device's thread to let go of it, so not under the lock.
  ended.clear();
  begun_bytes_ = 0;
  const std::lock_guard lock(mutex_);
  in_flight_.swap(ended);  // keeps its memory
}

void Mesh::close() {
  connected_ = false;
  close_pairs();
}

/// Any thread: a pair has its own lock, and a context's pairs are constant once they were made.
void Mesh::close_pairs() {
  std::shared_ptr<::gloo::transport::Context> transport;
  {
    const std::lock_guard lock(mutex_);
    transport = transport_;
  }
  if (!transport) return;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == member_) continue;
    try {
      if (auto& pair = transport->getPair(peer)) pair->close();
    } catch (const std::exception&) {  // it is closed, then
    }
  }
}

void Mesh::abort() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(aborted_, true)) return;
    for (Message& message : in_flight_) {
      message.buffer->abortWaitSend();
      message.buffer->abortWaitRecv();
    }
  }
  close_pairs();
}

}  // namespace hora::gloo
