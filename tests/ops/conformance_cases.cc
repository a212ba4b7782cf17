// The backends that the conformance suite always runs over. Others register beside their own tests.

#include <vector>

#include "ops/delayed/delayed.h"
#include "ops/local/local.h"
#include "tests/support/backend_fixture.h"

namespace hora::support {
namespace {

Opener prepare_local(int size) {
  return [hub = local::make_hub(size)](Rank rank) -> Result<std::unique_ptr<Backend>> {
    return local::open(hub, rank);
  };
}

Opener prepare_delayed(int size) {
  return [hub = local::make_hub(size)](Rank rank) -> Result<std::unique_ptr<Backend>> {
    return delayed::wrap(local::open(hub, rank), 0x5EED + static_cast<uint64_t>(rank));
  };
}

const bool kLocal = add_backend_case({.name = "local", .prepare = prepare_local});
const bool kDelayed =
    add_backend_case({.name = "delayed", .prepare = prepare_delayed, .slowness = 10});

}  // namespace
}  // namespace hora::support
