// Registers the tcp backend with the conformance suite: over loopback, ranks as threads, the same
// encrypted, and as processes.

#include <memory>

#include "tests/support/backend_fixture.h"
#include "tests/support/tcp_pairs.h"

namespace hora::support {
namespace {

constexpr int kLanes = 3;  // the suite's

Opener prepare(int size, bool processes, bool encrypted = false) {
  return [pairs = std::make_shared<TcpPairs>(size, kLanes * kTcpStreams, encrypted),
          processes](Rank rank) -> Result<std::unique_ptr<Backend>> {
    if (processes) pairs->keep_only(rank);
    return tcp::open(pairs->dial(rank), tcp_options(rank));
  };
}

const bool kThreads = add_backend_case(
    {.name = "tcp", .prepare = [](int size) { return prepare(size, false); }, .slowness = 4});
const bool kEncrypted =
    add_backend_case({.name = "tcp_tls",
                      .prepare = [](int size) { return prepare(size, false, true); },
                      .slowness = 6});
const bool kProcesses = add_backend_case({.name = "tcp_processes",
                                          .prepare = [](int size) { return prepare(size, true); },
                                          .processes = true,
                                          .slowness = 4});

}  // namespace
}  // namespace hora::support
