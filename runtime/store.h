#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

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

/// Connects to a StoreServer at `address` ("unix:/path" or "unix:@name"), and keeps trying until
/// `timeout` has passed. Only a server of the same user is trusted.
Result<std::shared_ptr<Store>> connect_store(const std::string& address,
                                             std::chrono::milliseconds timeout);

/// Serves one job's keys on a unix socket, from its own thread, until destroyed; removes the
/// socket. Who waits then gets kUnavailable. Peers of another user are refused, and whoever sends
/// what no client sends is cut off. Bounded: 4 KiB keys, 1 MiB values, 64 MiB in all, 4096
/// connections.
class StoreServer {
 public:
  /// Told of every new key, from the server's thread; must return soon.
  using Watch = std::function<void(std::string_view key)>;
  /// `path` should be in a directory that only this user may enter; "@name" is in none.
  static Result<std::unique_ptr<StoreServer>> start(const std::string& path, Watch watch = {});
  virtual ~StoreServer() = default;
  virtual std::string address() const = 0;  ///< for connect_store() and HORA_STORE
};

}  // namespace hora
