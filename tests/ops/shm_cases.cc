// The shared memory backend in the conformance suite: ranks as threads, and as processes.

#include <memory>

#include "ops/shm/shm.h"
#include "tests/ops/shm_ranks.h"
#include "tests/support/backend_fixture.h"

namespace hora::shm {
namespace {

support::Opener prepare_shm(int size) {
  return [board = std::make_shared<Board>(), size](Rank rank) -> Result<std::unique_ptr<Backend>> {
    Neighborhood::Options options = options_of(rank, size);
    options.lanes = 3;  // the suite uses 0, 1 and 2
    auto met = meet(*board, options);
    if (!met.ok()) return met.status();
    return open(std::move(met).value());
  };
}

std::string why_not() {
  return available() ? "" : "this machine has no memory files or process descriptors";
}

const bool kThreads =
    support::add_backend_case({.name = "shm", .prepare = prepare_shm, .unavailable = why_not});
const bool kProcesses = support::add_backend_case(
    {.name = "shm_processes", .prepare = prepare_shm, .processes = true, .unavailable = why_not});

}  // namespace
}  // namespace hora::shm
