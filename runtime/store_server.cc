#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "ops/descriptor.h"
#include "runtime/store.h"
#include "runtime/store_wire.h"

namespace hora {
namespace {

using Values = std::map<std::string, std::string, std::less<>>;

/// One client. It is reading a request, waiting for a key, or being sent a reply.
struct Connection {
  Descriptor socket;
  std::string input;     ///< of the request so far; grows with what has come, not what is promised
  bool waiting = false;  ///< for `key`
  std::string key;
  std::string reply;                   ///< header, and the message of an error
  const std::string* value = nullptr;  ///< follows the reply; values never move or go
  size_t sent = 0;                     ///< of the reply and the value

  bool replying() const { return !reply.empty(); }
};

class Server : public StoreServer {
 public:
  Server(std::string path, Descriptor listener, Descriptor stop, Watch watch)
      : path_(std::move(path)),
        listener_(std::move(listener)),
        stop_(std::move(stop)),
        watch_(std::move(watch)) {
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

 private:
  static constexpr size_t kMaxConnections = 4096;
  // Apart from each other, so that a full store can still say so.
  static constexpr size_t kMaxValues = size_t{48} << 20, kMaxRequests = size_t{16} << 20;
  // Until an accept() that failed for want of descriptors or memory is tried again.
  static constexpr int kAcceptRetryMilliseconds = 50;

  void serve() {
    std::vector<pollfd> entries;
    for (;;) {
      const bool accepting = !accept_later_ && connections_.size() < kMaxConnections;
      entries.assign({{stop_.get(), POLLIN, 0},
                      {listener_.get(), static_cast<short>(accepting ? POLLIN : 0), 0}});
      for (const auto& connection : connections_)
        entries.push_back({connection->socket.get(),
                           static_cast<short>(connection->replying() ? POLLOUT : POLLIN), 0});
      const int ready =
          ::poll(entries.data(), entries.size(), accept_later_ ? kAcceptRetryMilliseconds : -1);
      accept_later_ = false;
      if (ready < 0) continue;
      if (entries[0].revents) return say_goodbye();
      // Indices of entries stay those of connections until the dead are removed below.
      for (size_t i = 2; i < entries.size(); ++i) {
        std::unique_ptr<Connection>& connection = connections_[i - 2];
        if (entries[i].revents && !attend(*connection)) drop(*connection);
      }
      std::erase_if(connections_,
                    [](const auto& connection) { return !connection->socket.valid(); });
      if (entries[1].revents) accept_all();
    }
  }

  void accept_all() {
    while (connections_.size() < kMaxConnections) {
      Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket.valid()) {
        accept_later_ = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        return;
      }
      if (!store_wire::peer_is_same_user(socket.get())) continue;
      connections_.push_back(std::make_unique<Connection>());
      connections_.back()->socket = std::move(socket);
    }
  }

  void drop(Connection& connection) {
    request_bytes_ -= connection.input.size();
    connection = {};
  }

  /// False: this connection is over.
  bool attend(Connection& connection) {
    return connection.replying() ? send(connection) : receive(connection);
  }

  bool receive(Connection& connection) {
    for (;;) {
      const ssize_t got = ::recv(connection.socket.get(), chunk_.data(), chunk_.size(), 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
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
      const ssize_t sent = ::send(connection.socket.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
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
  const Descriptor listener_, stop_;
  const Watch watch_;
  std::thread thread_;

  // Of the server's thread.
  std::vector<std::unique_ptr<Connection>> connections_;
  Values values_;
  size_t value_bytes_ = 0, request_bytes_ = 0;  // the latter of unfinished requests
  bool accept_later_ = false;
  std::array<char, 65536> chunk_;
};

Status no_server(const std::string& path) {
  return Status(Code::kUnavailable,
                fmt::format("store: cannot serve at {}: {}", path, std::strerror(errno)));
}

}  // namespace

Result<std::unique_ptr<StoreServer>> StoreServer::start(const std::string& path, Watch watch) {
  const auto where = store_wire::socket_address("unix:" + path);
  if (!where)
    return Status(Code::kInvalidArgument,
                  fmt::format("store: {} is not an absolute path shorter than {} bytes", path,
                              sizeof(sockaddr_un::sun_path)));
  Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  Descriptor stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!listener.valid() || !stop.valid()) return no_server(path);
  // Before bind(), so that the socket's file never exists with wider permissions.
  if (::fchmod(listener.get(), S_IRUSR | S_IWUSR) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&*where), sizeof(*where)) != 0 ||
      ::listen(listener.get(), SOMAXCONN) != 0)
    return no_server(path);
  return std::unique_ptr<StoreServer>(
      std::make_unique<Server>(path, std::move(listener), std::move(stop), std::move(watch)));
}

}  // namespace hora
