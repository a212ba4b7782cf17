#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "hora/engine.h"
#include "runtime/store.h"
#include "tests/support/run_ranks.h"

namespace hora::support {

/// A job of forked ranks on this machine that goes through the real start-up; rank 0 serves the
/// store, in a folder that ends with the job. Ranks may be told that they are on several hosts,
/// which then speak over loopback.
///
/// Change `config` before run(). Threads: one.
class EngineJob {
 public:
  static constexpr const char* kSecret =
      "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
  using Started = Result<std::unique_ptr<Engine>>;

  explicit EngineJob(int ranks) : EngineJob(1, ranks) {}
  /// `hosts` hosts of `each` ranks.
  EngineJob(int hosts, int each) : size(hosts * each) {
    HORA_CHECK(::mkdtemp(folder_) != nullptr, folder_);
    config.size = size;
    config.local_size = each;
    config.cross_size = hosts;
    config.failure_timeout = 1;
    config.start_timeout = 20;
    config.log_level = "off";
    config.job = "test";
    if (hosts > 1) config.address = "127.0.0.1";
  }
  ~EngineJob() {
    ::unlink(socket().c_str());
    ::rmdir(folder_);
  }
  EngineJob(const EngineJob&) = delete;
  EngineJob& operator=(const EngineJob&) = delete;

  const int size;
  Config config;
  bool store_over_tcp = false;  ///< ranks reach the store as from another host

  std::string store() const { return "unix:" + socket(); }
  Result<std::unique_ptr<StoreServer>> serve() const {
    if (!store_over_tcp) return StoreServer::start(socket());
    StoreServer::Network network;
    network.key = {config.job, kSecret, config.tls != 0};
    network.bind = "127.0.0.1";
    auto server = StoreServer::start(socket(), {}, &network);
    HORA_TRY(server.status());
    auto own = connect_store(store(), kPatience);
    HORA_TRY(own.status());
    HORA_TRY(own.value()->set("over tcp", server.value()->network_address()));
    return server;
  }

  /// In a rank's process, once somebody serves.
  Started start(Rank rank, uint32_t epoch = 1, std::string_view choices = {}) const {
    Config mine = config;
    mine.rank = rank;
    mine.local_rank = rank % config.local_size;
    mine.cross_rank = rank / config.local_size;
    mine.epoch = epoch;
    mine.store = store();
    if (store_over_tcp) {
      auto own = connect_store(mine.store, kPatience);
      HORA_TRY(own.status());
      auto address = own.value()->get("over tcp", kPatience);
      HORA_TRY(address.status());
      mine.store = address.value();
    }
    return Engine::start(mine, choices);
  }

  /// Runs the body on every rank, while rank 0 serves the store; gives what went wrong.
  std::string run_ranks(const std::function<std::string(Rank)>& body,
                        std::chrono::seconds limit = std::chrono::seconds(60)) const {
    return run_processes(
        size,
        [&](Rank rank) -> std::string {
          std::unique_ptr<StoreServer> server;
          if (rank == 0) {
            auto started = serve();
            HORA_WANT(started.ok(), started.status().message());
            server = std::move(started).value();
          }
          return body(rank);
        },
        limit);
  }

  /// The same with what start() gave.
  std::string run_started(const std::function<std::string(Started, Rank)>& body,
                          std::chrono::seconds limit = std::chrono::seconds(60)) const {
    return run_ranks([&](Rank rank) { return body(start(rank), rank); }, limit);
  }

  /// The same with an engine that has started well.
  std::string run(const std::function<std::string(Engine&, Rank)>& body,
                  std::chrono::seconds limit = std::chrono::seconds(60)) const {
    return run_started(
        [&](Started engine, Rank rank) -> std::string {
          HORA_WANT(engine.ok(), engine.status().message());
          return body(*engine.value(), rank);
        },
        limit);
  }

 private:
  static constexpr std::chrono::seconds kPatience{20};
  std::string socket() const { return std::string(folder_) + "/store"; }

  char folder_[32] = "/tmp/hora-test-XXXXXX";
};

}  // namespace hora::support
