#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "ops/descriptor.h"
#include "ops/tcp/address.h"
#include "ops/tcp/handshake.h"
#include "ops/tcp/socket.h"
#include "ops/tcp/tls.h"
#include "runtime/clock.h"
#include "runtime/store.h"
#include "runtime/store_wire.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using Values = std::map<std::string, std::string, std::less<>>;

/// One client. It is reading a request, waiting for a key, or being sent a reply.
struct Connection {
  tcp::Socket socket;
  std::optional<tcp::Handshake> handshake;  ///< of TCP, until its client has proved itself
  Deadline proves_before;                   ///< while there is a handshake
  std::string input;     ///< of the request so far; grows with what has come, not what is promised
  bool waiting = false;  ///< for `key`
  std::string key;
  std::string reply;                   ///< header, and the message of an error
  const std::string* value = nullptr;  ///< follows the reply; values never move or go
  size_t sent = 0;                     ///< of the reply and the value

  explicit Connection(tcp::Socket made, const Deadline& deadline)
      : socket(std::move(made)), proves_before(deadline) {}
  bool replying() const { return !reply.empty(); }
};

/// What it takes to be let in from the network.
struct Gate {
  std::string address;  ///< what the network's listeners are reached at; empty: there are none
  tcp::Identity self;
  tcp::Secret key{};
  std::shared_ptr<const tcp::TlsKey> tls;  ///< none: in the clear
  milliseconds handshake_timeout{0};
  std::function<void(const std::string& text)> warn;
};

class Server : public StoreServer {
 public:
  Server(std::string path, Descriptor stop, std::vector<Descriptor> listeners, Watch watch,
         Gate gate)
      : path_(std::move(path)),
        stop_(std::move(stop)),
        listeners_(std::move(listeners)),
        watch_(std::move(watch)),
        gate_(std::move(gate)) {
    // Signals belong to the program's own threads.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { serve(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(thread_.native_handle(), "hora-store");
  }

  ~Server() override {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(stop_.get(), &one, sizeof(one));
    thread_.join();
    if (path_[0] == '/') ::unlink(path_.c_str());
  }

  std::string address() const override { return "unix:" + path_; }
  std::string network_address() const override { return gate_.address; }

 private:
  static constexpr size_t kMaxConnections = 4096, kMaxUnproved = 64;
  // Apart from each other, so that a full store can still say so.
  static constexpr size_t kMaxValues = size_t{48} << 20, kMaxRequests = size_t{16} << 20;
  // Until an accept() that failed for want of descriptors or memory is tried again.
  static constexpr int kAcceptRetryMilliseconds = 50;

  void serve() {
    std::vector<pollfd> entries;
    for (;;) {
      entries.assign({{stop_.get(), POLLIN, 0}});
      for (size_t i = 0; i < listeners_.size(); ++i)
        entries.push_back({listeners_[i].get(), static_cast<short>(accepts(i) ? POLLIN : 0), 0});
      int timeout = accept_later_ ? kAcceptRetryMilliseconds : -1;
      for (const auto& connection : connections_) {
        entries.push_back({connection->socket.get(),
                           static_cast<short>(connection->replying() ? POLLOUT : POLLIN), 0});
        if (!connection->handshake) continue;
        const int left = connection->proves_before.poll_milliseconds();
        timeout = timeout < 0 ? left : std::min(timeout, left);
      }
      const int ready = ::poll(entries.data(), entries.size(), timeout);
      accept_later_ = false;
      if (ready < 0) continue;
      if (entries[0].revents) return say_goodbye();
      attend_all(std::span(entries).subspan(1 + listeners_.size()));
      for (size_t i = 0; i < listeners_.size(); ++i)
        if (entries[1 + i].revents) accept_all(i);
    }
  }

  /// Indices of `entries` stay those of connections until the dead are removed.
  void attend_all(std::span<const pollfd> entries) {
    for (size_t i = 0; i < entries.size(); ++i) {
      Connection& connection = *connections_[i];
      if (entries[i].revents && !attend(connection)) drop(connection);
      if (connection.socket.valid() && connection.handshake && connection.proves_before.passed())
        cut_off(connection, "it did not say enough in time");
    }
    std::erase_if(connections_, [](const auto& connection) { return !connection->socket.valid(); });
  }

  /// The first listener is of this host; those of the network have strangers.
  bool accepts(size_t listener) const {
    return !accept_later_ && connections_.size() < kMaxConnections &&
           (listener == 0 || unproved_ < kMaxUnproved);
  }

  void accept_all(size_t listener) {
    while (accepts(listener)) {
      Descriptor socket(
          ::accept4(listeners_[listener].get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket.valid()) {
        accept_later_ = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        return;
      }
      const bool local = listener == 0;
      if (local && !store_wire::peer_is_same_user(socket.get())) continue;
      connections_.push_back(std::make_unique<Connection>(
          tcp::Socket(std::move(socket), local ? nullptr : gate_.tls, tcp::Side::kServer),
          Deadline(clock_, gate_.handshake_timeout)));
      if (local) continue;
      ++unproved_;
      tcp::prepare(connections_.back()->socket.get(), 0);
      connections_.back()->handshake =
          tcp::Handshake::server(gate_.key, gate_.self, tcp::fresh_nonce());
    }
  }

  void drop(Connection& connection) {
    request_bytes_ -= connection.input.size();
    if (connection.handshake) --unproved_;
    connection = Connection({}, connection.proves_before);
  }

  /// Of a connection that has proved nothing.
  void cut_off(Connection& connection, const std::string& cause) {
    if (!std::exchange(warned_, true) && gate_.warn)
      gate_.warn(
          fmt::format("the store cut off a connection from {}: {}. It changes nothing; "
                      "nothing is said of others like it",
                      tcp::peer_of(connection.socket.get()), cause));
    drop(connection);
  }

  /// False: the connection is over, or was cut off.
  bool prove(Connection& connection) {
    tcp::Handshake& handshake = *connection.handshake;
    char bytes[tcp::Handshake::kHello];
    while (!handshake.done()) {
      const ssize_t got = connection.socket.read(bytes, handshake.wants());
      if (got < 0 && errno == EAGAIN) return true;
      Status status(Code::kUnavailable, "it hung up");
      if (got < 0) status = connection.socket.failure();
      if (got > 0) status = handshake.feed({bytes, static_cast<size_t>(got)});
      if (status.ok() && handshake.claim().role != tcp::Role::kStore)
        status = {Code::kMismatch, "it asks for something else than the store"};
      // A connection that has carried nothing yet has room for a message of this size.
      const std::string& out = handshake.output;
      const bool said =
          out.empty() || connection.socket.write(out) == static_cast<ssize_t>(out.size());
      if (status.ok() && !said) status = {Code::kUnavailable, "it takes no bytes"};
      handshake.output.clear();
      if (!status.ok()) {
        cut_off(connection, status.message());
        return true;
      }
    }
    connection.handshake.reset();
    --unproved_;
    return receive(connection);
  }

  /// False: this connection is over.
  bool attend(Connection& connection) {
    if (connection.handshake) return prove(connection);
    return connection.replying() ? send(connection) : receive(connection);
  }

  bool receive(Connection& connection) {
    for (;;) {
      const ssize_t got = connection.socket.read(chunk_.data(), chunk_.size());
      if (got < 0) return errno == EAGAIN;
      // Nobody has anything to say who waits for an answer.
      if (got == 0 || connection.waiting) return false;
      const auto count = static_cast<size_t>(got);
      if (request_bytes_ + count > kMaxRequests) return false;
      request_bytes_ += count;
      connection.input.append(chunk_.data(), count);
      const std::string& input = connection.input;
      if (input.size() < store_wire::kHeader) continue;
      const size_t length = store_wire::length_in(input);
      if (length == 0 || length > store_wire::kMaxBody + 1 || input.size() > 4 + length)
        return false;
      if (input.size() < 4 + length) continue;
      const std::string request = std::move(connection.input);
      connection.input.clear();
      request_bytes_ -= request.size();
      return answer(connection, static_cast<uint8_t>(request[4]),
                    std::string_view(request).substr(store_wire::kHeader));
    }
  }

  bool answer(Connection& connection, uint8_t kind, std::string_view body) {
    if (kind == store_wire::kGet) return get(connection, body);
    if (kind != store_wire::kSet || body.size() < 2) return false;
    uint16_t key_bytes = 0;
    std::memcpy(&key_bytes, body.data(), sizeof(key_bytes));
    body.remove_prefix(sizeof(key_bytes));
    if (key_bytes > store_wire::kMaxKey || key_bytes > body.size()) return false;
    const std::string_view key = body.substr(0, key_bytes), value = body.substr(key_bytes);
    if (value.size() > store_wire::kMaxValue) return false;
    return set(connection, key, value);
  }

  bool set(Connection& connection, std::string_view key, std::string_view value) {
    if (const auto entry = values_.find(key); entry != values_.end()) {
      if (entry->second == value) return reply(connection, Code::kOk, {});
      return reply(connection, Code::kInvalidArgument,
                   fmt::format("store: {} is set to another value", key));
    }
    // A node's own size counts too, or a million empty values would be free.
    constexpr size_t kNode = 128;
    if (value_bytes_ + key.size() + value.size() + kNode > kMaxValues)
      return reply(connection, Code::kOutOfMemory,
                   fmt::format("store: no room for {}: {} bytes in all at most", key, kMaxValues));
    value_bytes_ += key.size() + value.size() + kNode;
    const auto entry = values_.emplace(key, value).first;
    if (watch_) watch_(key);
    for (const auto& other : connections_) {
      if (!other->waiting || other->key != key) continue;
      other->waiting = false;
      if (!reply_value(*other, entry->second)) drop(*other);
    }
    return reply(connection, Code::kOk, {});
  }

  bool get(Connection& connection, std::string_view key) {
    if (key.size() > store_wire::kMaxKey) return false;
    if (const auto entry = values_.find(key); entry != values_.end())
      return reply_value(connection, entry->second);
    connection.waiting = true;
    connection.key = key;
    return true;
  }

  bool reply(Connection& connection, Code code, const std::string& message) {
    connection.reply = store_wire::header(message.size(), static_cast<uint8_t>(code)) + message;
    connection.value = nullptr;
    connection.sent = 0;
    return send(connection);
  }

  bool reply_value(Connection& connection, const std::string& value) {
    connection.reply = store_wire::header(value.size(), static_cast<uint8_t>(Code::kOk));
    connection.value = &value;
    connection.sent = 0;
    return send(connection);
  }

  bool send(Connection& connection) {
    const std::string_view head = connection.reply;
    const std::string_view tail = connection.value ? *connection.value : std::string_view();
    while (connection.sent < head.size() + tail.size()) {
      const std::string_view rest = connection.sent < head.size()
                                        ? head.substr(connection.sent)
                                        : tail.substr(connection.sent - head.size());
      const ssize_t sent = connection.socket.write(rest);
      if (sent < 0) return errno == EAGAIN;
      connection.sent += static_cast<size_t>(sent);
    }
    connection.reply.clear();
    connection.value = nullptr;
    return true;
  }

  void say_goodbye() {
    for (const auto& connection : connections_)
      if (connection->waiting)
        (void)reply(
            *connection, Code::kUnavailable,
            fmt::format("store: the server ended while this rank waited for {}", connection->key));
  }

  // Constant after construction.
  const std::string path_;
  const Descriptor stop_;
  const std::vector<Descriptor> listeners_;  // the unix socket, then those of the network
  const Watch watch_;
  const Gate gate_;
  const SystemClock clock_;
  std::thread thread_;

  // Of the server's thread.
  std::vector<std::unique_ptr<Connection>> connections_;
  Values values_;
  size_t value_bytes_ = 0, request_bytes_ = 0;  // the latter of unfinished requests
  size_t unproved_ = 0;                         // connections with a handshake
  bool accept_later_ = false, warned_ = false;
  std::array<char, 65536> chunk_;
};

Status no_server(const std::string& path) {
  return Status(Code::kUnavailable,
                fmt::format("store: cannot serve at {}: {}", path, std::strerror(errno)));
}

Result<Gate> open_gate(const StoreServer::Network& network, std::vector<Descriptor>& listeners) {
  const auto secret = tcp::parse_secret(network.key.secret);
  HORA_TRY(secret.status());
  Gate gate;
  gate.self = store_wire::identity_of(network.key.job);
  gate.key = tcp::handshake_key(secret.value(), gate.self.job);
  if (network.key.tls)
    gate.tls = std::make_shared<const tcp::TlsKey>(secret.value(), gate.self.job);
  gate.handshake_timeout = network.handshake_timeout;
  gate.warn = network.warn;
  auto listening = tcp::listen_for_peers(network.bind, network.port, 0);
  HORA_TRY(listening.status());
  gate.address = std::string(store_wire::kTcpScheme) + listening.value().addresses;
  for (Descriptor& socket : listening.value().sockets) listeners.push_back(std::move(socket));
  return gate;
}

}  // namespace

Result<std::unique_ptr<StoreServer>> StoreServer::start(const std::string& path, Watch watch,
                                                        const Network* network) {
  const auto where = store_wire::socket_address("unix:" + path);
  if (!where)
    return Status(Code::kInvalidArgument,
                  fmt::format("store: {} is not an absolute path shorter than {} bytes", path,
                              sizeof(sockaddr_un::sun_path)));
  std::vector<Descriptor> listeners;
  listeners.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  Descriptor stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int listener = listeners[0].get();
  if (listener < 0 || !stop.valid()) return no_server(path);
  Gate gate;
  if (network) {
    auto opened = open_gate(*network, listeners);
    HORA_TRY(opened.status());
    gate = std::move(opened).value();
  }
  // Before bind(), so that the socket's file never exists with wider permissions.
  if (::fchmod(listener, S_IRUSR | S_IWUSR) != 0 ||
      ::bind(listener, reinterpret_cast<const sockaddr*>(&*where), sizeof(*where)) != 0 ||
      ::listen(listener, SOMAXCONN) != 0)
    return no_server(path);
  return std::unique_ptr<StoreServer>(std::make_unique<Server>(
      path, std::move(stop), std::move(listeners), std::move(watch), std::move(gate)));
}

}  // namespace hora
