#include "runtime/store.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include <fmt/format.h>
#include <sys/socket.h>

#include "ops/descriptor.h"
#include "ops/tcp/address.h"
#include "ops/tcp/handshake.h"
#include "ops/tcp/socket.h"
#include "ops/tcp/tls.h"
#include "runtime/clock.h"
#include "runtime/store_wire.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

Status gone(const std::string& address, std::string_view why) {
  return Status(
      Code::kUnavailable,
      fmt::format("store: the server at {} is gone ({}); has horarun ended?", address, why));
}

/// A request takes a connection nobody uses, or makes one, and gives it back after the reply. So a
/// get() that waits holds up no other thread, and giving up is closing the connection.
class SocketStore : public Store {
 public:
  SocketStore(std::string address, StoreKey key)
      : address_(std::move(address)), credentials_(std::move(key)) {}

  Status connect_before(const Deadline& deadline) {
    HORA_TRY(find());
    Result<tcp::Socket> connection = open(deadline);
    HORA_TRY(connection.status());
    keep(std::move(connection).value());
    return {};
  }

  Status set(std::string_view key, std::string_view value) override {
    if (key.size() > store_wire::kMaxKey || value.size() > store_wire::kMaxValue)
      return Status(
          Code::kInvalidArgument,
          fmt::format("store: {:.64} has a key of {} bytes and a value of {}; the most are "
                      "{} and {}",
                      key, key.size(), value.size(), store_wire::kMaxKey, store_wire::kMaxValue));
    const auto key_bytes = static_cast<uint16_t>(key.size());
    std::string frame = store_wire::header(2 + key.size() + value.size(), store_wire::kSet);
    frame.append(reinterpret_cast<const char*>(&key_bytes), sizeof(key_bytes));
    frame.append(key).append(value);
    // The server answers at once; else it is stopped, stuck, or out of reach.
    const Status set = ask(frame, key, over_tcp() ? kReconnect : kSetTimeout).status();
    return set.code() == Code::kTimeout ? lost(gone(address_, "no answer in time")) : set;
  }

  Result<std::string> get(std::string_view key, milliseconds timeout) override {
    if (key.size() > store_wire::kMaxKey)
      return Status(Code::kInvalidArgument, fmt::format("store: a key of {} bytes; the most are {}",
                                                        key.size(), store_wire::kMaxKey));
    std::string frame = store_wire::header(key.size(), store_wire::kGet);
    return ask(frame.append(key), key, timeout);
  }

 private:
  static constexpr milliseconds kSetTimeout{30'000};
  static constexpr milliseconds kReconnect{5'000};  // over a network packets get lost
  static constexpr milliseconds kLong{500};         // a wait after which more time is well spent
  static constexpr milliseconds kAtOnce{500};       // a busy server also hangs up, but later

  bool over_tcp() const { return address_.starts_with(store_wire::kTcpScheme); }

  /// What a "tcp://" address stands for, and the key to it.
  Status find() {
    if (!over_tcp()) return {};
    const auto secret = tcp::parse_secret(credentials_.secret);
    HORA_TRY(secret.status());
    auto found = tcp::resolve(address_.substr(store_wire::kTcpScheme.size()));
    if (!found.ok() || found.value().empty())
      return Status(found.ok() ? Code::kInvalidArgument : found.status().code(),
                    fmt::format("HORA_STORE={}: {}", address_,
                                found.ok() ? "it names no address" : found.status().message()));
    places_ = std::move(found).value();
    self_ = store_wire::identity_of(credentials_.job);
    handshake_key_ = tcp::handshake_key(secret.value(), self_.job);
    if (credentials_.tls) tls_ = std::make_shared<const tcp::TlsKey>(secret.value(), self_.job);
    return {};
  }

  Result<tcp::Socket> open(const Deadline& deadline) {
    return over_tcp() ? open_tcp(deadline) : open_unix(deadline);
  }

  /// Tries all places in turn, first with little patience and then with more.
  Result<tcp::Socket> open_tcp(const Deadline& deadline) {
    milliseconds patience{1'000};
    for (int refusals = 0;;) {
      std::string causes;
      bool refused = false;
      for (const tcp::Address& place : places_) {
        const milliseconds left(std::max(deadline.poll_milliseconds(), 1));
        const Deadline attempt(clock_, std::min(patience, left)), at_once(clock_, kAtOnce);
        auto connection = open_at(place, attempt);
        if (connection.ok()) return connection;
        causes += fmt::format("{}{}: {}", causes.empty() ? "" : "; ", place.text(),
                              connection.status().message());
        refused |= connection.status().code() != Code::kUnavailable && !at_once.passed();
      }
      refusals = refused ? refusals + 1 : 0;
      if (refusals == tcp::kRefusals)
        return Status(Code::kMismatch,
                      fmt::format("store: refused {} times in a row by {}", refusals, causes));
      if (deadline.passed()) return gone(address_, causes);
      patience *= 2;
      // A server that does not listen yet cannot be waited for.
      ::poll(nullptr, 0, std::min(kRetryMilliseconds, deadline.poll_milliseconds()));
    }
  }

  /// Errors: kUnavailable may pass; else somebody listens there with whom something differs.
  Result<tcp::Socket> open_at(const tcp::Address& place, const Deadline& deadline) {
    const auto failed = [](int error) { return Status(Code::kUnavailable, std::strerror(error)); };
    const auto in_time = [](const Status& status) {
      return status.code() == Code::kTimeout ? Status(Code::kUnavailable, "no answer in time")
                                             : status;
    };
    tcp::Socket connection(
        Descriptor(::socket(place.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), tls_,
        tcp::Side::kClient);
    if (!connection.valid()) return failed(errno);
    tcp::prepare(connection.get(), 0);
    if (::connect(connection.get(), place.get(), place.bytes) != 0) {
      if (errno != EINPROGRESS) return failed(errno);
      HORA_TRY(in_time(await(connection, POLLOUT, {}, deadline)));
      int error = 0;
      socklen_t bytes = sizeof(error);
      ::getsockopt(connection.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
      if (error != 0) return failed(error);
    }
    auto handshake = tcp::Handshake::client(handshake_key_, self_, tcp::kNobody, tcp::Role::kStore,
                                            0, tcp::fresh_nonce());
    while (!handshake.done()) {
      char bytes[tcp::Handshake::kHello];
      const bool speaks = !handshake.output.empty();
      const ssize_t moved =
          speaks ? connection.write(handshake.output) : connection.read(bytes, handshake.wants());
      if (moved > 0 && speaks) {
        handshake.output.erase(0, static_cast<size_t>(moved));
      } else if (moved > 0) {
        HORA_TRY(handshake.feed({bytes, static_cast<size_t>(moved)}));
      } else if (moved == 0 || errno == ECONNRESET) {
        return Status(Code::kMismatch, std::string(handshake.reason()));
      } else if (errno == EAGAIN) {
        const bool waits_to_send = speaks && !connection.agreeing();
        HORA_TRY(in_time(await(connection, waits_to_send ? POLLOUT : POLLIN, {}, deadline)));
      } else {
        return connection.failure();
      }
    }
    return connection;
  }

  Result<tcp::Socket> open_unix(const Deadline& deadline) {
    const auto where = store_wire::socket_address(address_);
    if (!where)
      return Status(
          Code::kInvalidArgument,
          fmt::format("HORA_STORE={}: expected unix:/path, the path shorter than {} bytes, or "
                      "tcp://host:port",
                      address_, sizeof(sockaddr_un::sun_path)));
    for (;;) {
      tcp::Socket connection(
          Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
      if (!connection.valid())
        return Status(Code::kUnavailable,
                      fmt::format("store: no socket: {}", std::strerror(errno)));
      if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&*where), sizeof(*where)) ==
          0) {
        if (!store_wire::peer_is_same_user(connection.get()))
          return Status(Code::kUnavailable,
                        fmt::format("store: {} belongs to another user; not trusted", address_));
        return connection;
      }
      const int error = errno;  // ENOENT, ECONNREFUSED: not up yet; EAGAIN: its queue is full
      if (error != ENOENT && error != ECONNREFUSED && error != EAGAIN && error != EINTR)
        return gone(address_, std::strerror(error));
      if (deadline.passed()) return gone(address_, std::strerror(error));
      // Nothing to wait on: a socket that does not exist yet cannot be polled.
      ::poll(nullptr, 0, std::min(kRetryMilliseconds, deadline.poll_milliseconds()));
    }
  }

  Result<std::string> ask(std::string_view frame, std::string_view key, milliseconds timeout) {
    HORA_TRY(lost({}));
    tcp::Socket connection = resume(frame);
    const bool asked = connection.valid();
    if (!asked) connection = take();
    if (!connection.valid()) {
      // The server was there before: if it refuses now, it will not come back. To reach it may take
      // longer than the caller would wait for an answer.
      Result<tcp::Socket> made =
          open(Deadline(clock_, over_tcp() ? kReconnect : milliseconds(kRetryMilliseconds)));
      HORA_TRY(lost(made.status()));
      connection = std::move(made).value();
    }
    const Deadline deadline(clock_, timeout);
    if (!asked) HORA_TRY(send(connection, frame, key, deadline));
    const Status ready = await(connection, POLLIN, key, deadline);
    if (ready.ok()) return answer(connection, key, Deadline(clock_, kSetTimeout));
    if (ready.code() == Code::kTimeout) {
      suspend(frame, std::move(connection));
      // Did nobody set it, or is the server out of reach?
      if (over_tcp() && timeout >= kLong)
        HORA_TRY(lost(open(Deadline(clock_, std::min(kReconnect, timeout))).status()));
    }
    return ready;
  }

  Result<std::string> answer(tcp::Socket& connection, std::string_view key,
                             const Deadline& deadline) {
    std::string reply;
    HORA_TRY(receive(connection, store_wire::kHeader, reply, key, deadline));
    const size_t length = store_wire::length_in(reply);
    if (length == 0 || length > store_wire::kMaxBody + 1)
      return gone(address_, "a reply of bad length");
    const auto code = static_cast<Code>(reply[4]);
    HORA_TRY(receive(connection, 4 + length, reply, key, deadline));
    reply.erase(0, store_wire::kHeader);
    if (code > Code::kInternal) return gone(address_, "a reply with a bad code");
    if (code == Code::kOk || code != Code::kUnavailable) keep(std::move(connection));
    if (code != Code::kOk) return Status(code, std::move(reply));
    return reply;
  }

  Status await(const tcp::Socket& socket, short events, std::string_view key,
               const Deadline& deadline) {
    pollfd entry{socket.get(), events, 0};
    for (;;) {
      const int ready = ::poll(&entry, 1, deadline.poll_milliseconds());
      if (ready > 0) return {};
      if (ready < 0 && errno != EINTR) return gone(address_, std::strerror(errno));
      if (deadline.passed())
        return Status(Code::kTimeout, fmt::format("store: nobody set {} in time", key));
    }
  }

  Status send(tcp::Socket& socket, std::string_view bytes, std::string_view key,
              const Deadline& deadline) {
    while (!bytes.empty()) {
      const ssize_t sent = socket.write(bytes);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN) {
        HORA_TRY(await(socket, POLLOUT, key, deadline));
      } else {
        return gone(address_, socket.failure().message());
      }
    }
    return {};
  }

  /// Until `reply` has `bytes` bytes.
  Status receive(tcp::Socket& socket, size_t bytes, std::string& reply, std::string_view key,
                 const Deadline& deadline) {
    size_t have = reply.size();
    reply.resize(bytes);
    while (have < bytes) {
      const ssize_t got = socket.read(reply.data() + have, bytes - have);
      if (got > 0) {
        have += static_cast<size_t>(got);
      } else if (got == 0) {
        return gone(address_, "connection closed");
      } else if (errno == EAGAIN) {
        HORA_TRY(await(socket, POLLIN, key, deadline));
      } else {
        return gone(address_, socket.failure().message());
      }
    }
    return {};
  }

  tcp::Socket take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return {};
    tcp::Socket connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void keep(tcp::Socket connection) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kIdle) idle_.push_back(std::move(connection));
  }

  /// Takes note that the server is out of reach, and says whether it is. It does not come back, and
  /// whoever asks next is not to wait in vain, too.
  Status lost(const Status& why) {
    const std::lock_guard lock(mutex_);
    if (lost_.ok()) lost_ = why;
    return lost_;
  }

  /// A question that was given up stays asked. Who asks again and again for a short time each gets
  /// an answer that is on its way for longer.
  void suspend(std::string_view frame, tcp::Socket connection) {
    const std::lock_guard lock(mutex_);
    if (asked_.size() == kIdle) asked_.erase(asked_.begin());
    asked_.emplace_back(frame, std::move(connection));
  }

  tcp::Socket resume(std::string_view frame) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(asked_.begin(), asked_.end(),
                                    [&](const auto& each) { return each.first == frame; });
    if (found == asked_.end()) return {};
    tcp::Socket connection = std::move(found->second);
    asked_.erase(found);
    return connection;
  }

  static constexpr int kRetryMilliseconds = 20;
  static constexpr size_t kIdle = 2;

  // Constant after connect_before() has begun.
  const std::string address_;
  const StoreKey credentials_;
  std::vector<tcp::Address> places_;
  tcp::Identity self_;
  tcp::Secret handshake_key_{};
  std::shared_ptr<const tcp::TlsKey> tls_;  // none: in the clear

  const SystemClock clock_;
  std::mutex mutex_;
  Status lost_;                                             // guarded by mutex_
  std::vector<tcp::Socket> idle_;                           // guarded by mutex_
  std::vector<std::pair<std::string, tcp::Socket>> asked_;  // guarded by mutex_
};

}  // namespace

StoreKey key_of(const Config& config) {
  return {config.job, config.secret, config.tls != 0};
}

Result<std::shared_ptr<Store>> connect_store(const std::string& address, milliseconds timeout,
                                             const StoreKey& key) {
  auto store = std::make_shared<SocketStore>(address, key);
  const SystemClock clock;
  HORA_TRY(store->connect_before(Deadline(clock, timeout)));
  return std::shared_ptr<Store>(std::move(store));
}

}  // namespace hora
