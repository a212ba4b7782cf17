#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "hora/status.h"

namespace hora {

/// Where ranks leave small values for each other while they find each other: addresses, versions.
/// Not for data. Keys are set once.
///
/// Threads: any. Errors: kTimeout names the key that nobody set; kUnavailable: the server is gone.
class Store {
 public:
  virtual ~Store() = default;
  virtual Status set(std::string_view key, std::string_view value) = 0;
  /// Waits until somebody sets `key`.
  virtual Result<std::string> get(std::string_view key, std::chrono::milliseconds timeout) = 0;
};

/// For ranks that are threads of one process.
std::shared_ptr<Store> make_memory_store();

/// Connects to a StoreServer at `address` ("unix:/path"). Only a server of the same user is trusted.
Result<std::shared_ptr<Store>> connect_store(const std::string& address,
                                             std::chrono::milliseconds timeout);

/// Serves one job's keys on a unix socket, from its own thread, until destroyed; removes the socket.
/// Peers of another user are refused. Bounded: 4 KiB keys, 1 MiB values, 64 MiB in all.
class StoreServer {
 public:
  static Result<std::unique_ptr<StoreServer>> start(const std::string& path);
  virtual ~StoreServer() = default;
  virtual std::string address() const = 0;  ///< for connect_store() and HORA_STORE
};

}  // namespace hora
