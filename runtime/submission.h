#pragma once

#include "hora/world.h"
#include "runtime/compression.h"
#include "runtime/operation.h"

namespace hora {

/// Checks a request and copies it into `operation`, with the signature that all ranks must agree on
/// and, for results of known size, memory where the caller gave none.
///
/// Errors: kInvalidArgument says what is wrong, with which tensor, and what was expected;
/// kUnavailable what does not exist yet; kOutOfMemory. Threads: any.
Status sign(const Request& request, const World& world, Compression& compression,
            Operation& operation);

}  // namespace hora
