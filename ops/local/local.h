#pragma once

#include <memory>
#include <span>

#include "ops/backend.h"
#include "ops/bell.h"

/// The backend for ranks that are threads of one process: how most tests run, and the reference for
/// the bits that the others must give.
namespace hora::local {

/// Where the ranks of one epoch meet. Threads: any.
class Hub;
std::shared_ptr<Hub> make_hub(int size);

/// The backend of `rank`. `bells[r]`, if given, is rung when rank r has to look again.
///
/// Every member of an operation reduces its range of the concatenation and writes it into all
/// members' memory, in between two meetings of all: nobody reads or writes another's memory outside
/// of an operation that both are in.
///
/// After an abort: an operation that has ended here is no longer touched by anybody, its memory may
/// be freed; what a member had begun to write is finished first, which takes no more than its own
/// computing. Which parts were written is unspecified. The hub is of no more use on that lane.
///
/// Ownership: the hub is shared; bells are copied. Threads: one driver per lane, as for any
/// backend; different ranks are independent.
std::unique_ptr<Backend> open(std::shared_ptr<Hub> hub, Rank rank,
                              std::span<const Bell> bells = {});

}  // namespace hora::local
