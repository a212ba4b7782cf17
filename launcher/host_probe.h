#pragma once

#include <memory>
#include <string>

#include "hora/status.h"
#include "launcher/agent_wire.h"
#include "runtime/clock.h"
#include "runtime/store.h"

namespace hora {

/// One host's part in `hora doctor --hosts`: a store that others try to reach as ranks would, and
/// tries of our own to reach theirs.
class HostProbe {
 public:
  static Result<std::unique_ptr<HostProbe>> open(const StoreKey& key);
  HostProbe(std::unique_ptr<StoreServer> server, StoreKey key)
      : server_(std::move(server)), key_(std::move(key)) {}

  std::string address() const { return server_->network_address(); }
  /// Takes some seconds where packets vanish.
  agent_wire::Reached reach(const agent_wire::Reach& other, const Clock& clock) const;

 private:
  const std::unique_ptr<StoreServer> server_;
  const StoreKey key_;
};

}  // namespace hora
