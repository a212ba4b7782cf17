#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/plugin.h"

namespace gloo::transport {
class Context;
class Device;
class UnboundBuffer;
}  // namespace gloo::transport

namespace hora::gloo {

/// A connection from one member to every other, and the messages in flight on it.
///
/// Gloo connects by addresses left in the store, and takes whoever comes first to a listening port
/// for the member it waits for. So a set-up may fail without anybody's death (a port scanner is
/// enough). Members therefore set up in attempts: each says how its own went, member 0 gives the
/// verdict, and all try again with fresh ports or all go on. The last step of an attempt is a
/// greeting over the new connections, which a stranger does not know. This is protection against
/// accidents; Gloo has none against an attacker.
///
/// Ownership: the memory of a message is borrowed until clear().
/// Threads: one (the communicator's worker); abort() and watch() any.
/// Errors: kPeerLost names the member's rank; kTimeout if it was silent for too long. Gloo's
/// exceptions stop here.
class Mesh {
 public:
  /// `prefix` begins every key in the store; `ranks` are the members in order, `member` is this
  /// one.
  Mesh(std::shared_ptr<::gloo::transport::Device> device, const PluginContext& context,
       std::string prefix, std::vector<Rank> ranks, int member);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int member() const { return member_; }
  int size() const { return static_cast<int>(ranks_.size()); }

  /// Connects at the first call; collective. Errors: kTimeout names the rank that never came.
  Status connect();

  /// Begins to send to, or receive from, member `peer`. Messages of the same slot between the same
  /// two members arrive in the order they were sent. Empty messages are not sent.
  Status send(int peer, uint64_t slot, const std::byte* data, size_t bytes);
  Status receive(int peer, uint64_t slot, std::byte* data, size_t bytes);

  /// How many messages were begun since clear(), and waiting for those up to the `end`-th. Each
  /// message is waited for once, in the order they were begun, or never.
  size_t begun() const { return in_flight_.size(); }
  Status wait(size_t message);
  Status wait_for_all();

  /// Forgets what is in flight; nobody touches its memory afterwards.
  void clear();

  /// Cuts the connections, so that all members notice.
  void close();

  /// Cuts the connections and ends a wait in progress, soon; for good.
  void abort();

  /// Ends a wait in progress if the connection it waits on has ended. Gloo tells whoever waits for
  /// a message that has not begun, and forgets those that are half way; so this is to be called
  /// from time to time while the worker is in an operation. Cheap.
  void watch();

 private:
  struct Message {
    std::unique_ptr<::gloo::transport::UnboundBuffer> buffer;
    int peer = 0;
    bool sending = false, waited = false;
  };
  using Milliseconds = std::chrono::milliseconds;
  static constexpr size_t kNone = SIZE_MAX;

  Status publish(const std::string& key, std::string_view value);
  Result<std::string> lookup(const std::string& key, int peer, Milliseconds& budget);
  Status listen(std::string& addresses);
  Status link(const std::vector<std::string>& addresses);
  Status greet();
  Status attempt(const std::string& prefix, Milliseconds& budget, Status& outcome);
  Status agree(const std::string& prefix, Milliseconds& budget, Status& outcome);
  Status begin(int peer, uint64_t slot, std::byte* data, size_t bytes, bool sending);
  bool complete(Message& message, Milliseconds timeout);
  void waiting_for(size_t message);
  Status set_tripwires();
  std::string severed(int peer);
  void close_pairs();
  Status failure(int peer, const std::string& what) const;
  std::string peer_name(int peer) const;
  bool aborted();

  const std::shared_ptr<::gloo::transport::Device> device_;
  const PluginContext& context_;
  const std::string prefix_;
  const std::vector<Rank> ranks_;
  const int member_;
  bool connected_ = false;
  size_t begun_bytes_ = 0;

  std::mutex mutex_;
  bool aborted_ = false;  // guarded by mutex_
  // These change in the worker alone, and under mutex_ for the sake of abort() and watch().
  std::shared_ptr<::gloo::transport::Context> transport_;
  std::vector<Message> in_flight_;
  size_t waiting_ = kNone;  // which of them the worker waits for
  // One for each member: waits for a byte that never comes, so Gloo tells it of the end.
  std::vector<std::unique_ptr<::gloo::transport::UnboundBuffer>> tripwires_;
  std::byte never_{};
};

}  // namespace hora::gloo
