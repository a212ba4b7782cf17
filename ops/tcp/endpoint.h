#pragma once

#include <atomic>
#include <chrono>
#include <compare>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "hora/status.h"
#include "ops/descriptor.h"
#include "ops/tcp/address.h"
#include "ops/tcp/handshake.h"
#include "ops/tcp/socket.h"

namespace hora::tcp {

/// One connection of this rank: to whom, and what for.
struct Key {
  Rank peer = 0;
  Role role = Role::kControl;
  uint8_t stream = 0;  ///< data: lane * streams + index
  friend auto operator<=>(const Key&, const Key&) = default;
};

/// Where one rank meets ranks of other hosts: one listening port and one thread ("hora-endpoint")
/// that accepts, connects and has both sides prove themselves (handshake.h). Of two ranks the
/// higher connects. It never looks into a proven connection; whoever takes it owns it.
///
/// Bounded: 64 connections at once that have proved nothing yet, each for handshake_timeout at
/// most. A stranger who connects, sends garbage, replays or stalls is cut off without an answer and
/// counted; the first is told to `warn`. A second connection for one key is refused. Who is refused
/// at once, several times in a row, because something differs, gives up before its time.
///
/// Threads: any; none of the functions waits but wait() and, for names, know(). Errors:
/// kUnavailable names the rank, its addresses and what happened at each of them.
class Endpoint {
 public:
  struct Options {
    Identity self;
    Secret secret{};
    bool tls = false;  ///< all connections are encrypted; equal on all ranks
    std::string bind;  ///< addresses of this machine, commas between; empty: all of them
    std::chrono::milliseconds handshake_timeout{1'000}, connect_timeout{30'000};
    uint64_t buffer_bytes = 0;   ///< of each connection and direction; 0: as the system likes
    std::function<void()> ring;  ///< a wanted connection is there or has failed
    std::function<void(const std::string& text)> warn;
  };

  static Result<std::shared_ptr<Endpoint>> open(const Options& options);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  const Identity& self() const { return options_.self; }

  /// "10.0.0.1:4711,[fe80::1]:4711": what others try in turn.
  std::string addresses() const;

  /// Where a peer listens: its addresses(). Told once for each peer.
  void know(Rank peer, const std::string& addresses);

  /// Replaces Options::ring.
  void on_ready(std::function<void()> ring);

  /// Begins to make this connection, or to wait for the peer to make it; again: does nothing.
  void want(const Key& key);

  /// The proven socket, once: non-blocking, without delay of small writes. Nothing while it is
  /// under way. The lower rank waits without a limit: whether its peer lives is not for the
  /// endpoint to judge.
  Result<std::optional<Socket>> take(const Key& key);

  /// want() and take(). Errors: kTimeout names the rank that did not come.
  Result<Socket> wait(const Key& key, std::chrono::milliseconds timeout);

  /// How many connections were cut off before they had proved anything.
  uint64_t strangers() const { return strangers_.load(std::memory_order_relaxed); }

  /// In the child of a fork: closes what listens and what nobody has taken. Nothing may be called
  /// afterwards, not even the destructor. Async-signal-safe.
  void forget_in_child();

  /// What else forget_in_child() is to do: of whoever took the sockets. Replaces what was told
  /// before.
  void on_fork(std::function<void()> forget) { on_fork_ = std::move(forget); }

 private:
  /// What became of a wanted or offered connection.
  struct Link {
    enum class State : uint8_t { kOffered, kWanted, kReady, kFailed, kTaken } state;
    Socket socket;
    Status error;
  };
  /// A connection that has proved nothing yet: one that was accepted, or one attempt of a call.
  struct Talk;

  explicit Endpoint(Options options);
  Status listen();
  void serve();
  void wake() const;
  void watch(int descriptor, uint64_t id) const;
  void attend(uint64_t id);
  void accept_all(int listener);
  void accept_later(bool retry);
  void prove(Talk& talk);
  static void await_acceptance(Talk& talk);
  Status say(Talk& talk) const;
  Status exchange(Talk& talk) const;
  void admit(Talk& talk);
  void cut_off(Talk& talk, const std::string& cause);
  void end(Talk& talk);

  void begin_calls();
  void begin_call(const Key& key, const Result<std::vector<Address>>& addresses);
  void attempt(Talk& talk);
  void connected(Talk& talk);
  void refused(Talk& talk, const Status& why);
  void attempt_failed(Talk& talk, const std::string& cause);
  void give_up(Talk& talk);
  void settle(const Key& key, Socket socket, Status error);
  void ring();

  const Options options_;
  const Secret key_;
  const std::shared_ptr<const TlsKey> tls_;  ///< none: in the clear
  std::vector<Descriptor> listeners_;
  std::string addresses_;
  Descriptor epoll_, wake_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> strangers_{0};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Key, Link> links_;                           ///< guarded by mutex_
  std::map<Rank, Result<std::vector<Address>>> peers_;  ///< guarded by mutex_
  std::deque<Key> to_call_;                             ///< guarded by mutex_
  std::function<void()> ring_;                          ///< guarded by mutex_
  std::function<void()> on_fork_;

  // Of the thread.
  std::map<uint64_t, std::unique_ptr<Talk>> talks_;
  uint64_t next_id_ = 0;
  size_t unproved_ = 0;  ///< talks that were accepted
  bool accepting_ = true;
  Descriptor accept_again_;
};

}  // namespace hora::tcp
