#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "hora/config.h"
#include "hora/status.h"

namespace hora {

/// Where ranks leave small values for each other while they find each other: addresses, versions.
/// Not for data. Keys are set once; setting one again to the same value is ok.
///
/// Threads: any; a get() that waits does not hold up others.
/// Errors: kTimeout names the key that nobody set; kUnavailable: the server is gone;
/// kInvalidArgument: too long, or set before to another value; kOutOfMemory: the store is full.
class Store {
 public:
  virtual ~Store() = default;
  virtual Status set(std::string_view key, std::string_view value) = 0;
  /// Waits until somebody sets `key`.
  virtual Result<std::string> get(std::string_view key, std::chrono::milliseconds timeout) = 0;
};

/// For ranks that are threads of one process.
std::shared_ptr<Store> make_memory_store();

/// What proves to a store of another host that this process belongs to the job. Both are needed for
/// "tcp://" addresses only.
struct StoreKey {
  std::string job;     ///< HORA_JOB
  std::string secret;  ///< HORA_SECRET
  bool tls = false;    ///< HORA_TLS: the connection is encrypted
};
StoreKey key_of(const Config& config);

/// Connects to a StoreServer at `address`, and keeps trying until `timeout` has passed. Of
/// "unix:/path" or "unix:@name" only a server of the same user is trusted; of "tcp://host:port" (or
/// several, "tcp://10.0.0.1:4711,[::1]:4711", tried in turn) one that proves to know the secret.
/// Who is refused at once, several times in a row, because something differs, gives up before its
/// time. Errors: kMismatch: refused; kUnavailable: nobody has answered.
Result<std::shared_ptr<Store>> connect_store(const std::string& address,
                                             std::chrono::milliseconds timeout,
                                             const StoreKey& key = {});

/// Serves one job's keys, from its own thread, until destroyed: on a unix socket, which it removes
/// at the end, and if asked over TCP, too. Who waits then gets kUnavailable. Peers of another user,
/// or who do not prove that they know the secret, are refused, and whoever sends what no client
/// sends is cut off. Bounded: 4 KiB keys, 1 MiB values, 64 MiB in all, 4096 connections, of them 64
/// that have proved nothing yet.
class StoreServer {
 public:
  /// Told of every new key, from the server's thread; must return soon.
  using Watch = std::function<void(std::string_view key)>;

  /// How ranks of other hosts reach the store.
  struct Network {
    StoreKey key;
    std::string bind;   ///< addresses of this machine, commas between; empty: all of them
    uint16_t port = 0;  ///< 0: any free one
    std::chrono::milliseconds handshake_timeout{2'000};
    /// Told once of a stranger that was cut off, from the server's thread.
    std::function<void(const std::string& text)> warn;
  };

  /// `path` should be in a directory that only this user may enter; "@name" is in none.
  static Result<std::unique_ptr<StoreServer>> start(const std::string& path, Watch watch = {},
                                                    const Network* network = nullptr);
  virtual ~StoreServer() = default;
  virtual std::string address() const = 0;  ///< for connect_store() and HORA_STORE, on this host
  virtual std::string network_address() const = 0;  ///< on other hosts; empty without a Network
};

}  // namespace hora
