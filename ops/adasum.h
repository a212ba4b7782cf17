#pragma once

#include <cstdint>
#include <span>

#include "ops/backend.h"
#include "ops/lane.h"

namespace hora {

/// Adaptive summation of every tensor over the communicator's members, in place: gradients that
/// point apart add up, those that point the same way are averaged, so that one learning rate serves
/// any number of ranks. (Maleki, Musuvathi et al.: Scaling Distributed Training with Adaptive
/// Summation, MLSys 2021.)
///
/// Two vectors x and y become (1 - xy / 2xx) x + (1 - xy / 2yy) y. More are combined in a binary
/// tree, neighbors in rank order first; a vector without a neighbor passes on to the next level, so
/// any number of members will do. A vector of zeros changes nothing. Each tensor has factors of its
/// own. Inner products are computed in float64; 16-bit values are combined in float32.
///
/// `terms` gives the element type, floating-point, and the scales: `prescale` on every member's
/// values before, `postscale` on the result. Equal bits on all members, whatever the backend's
/// chunks or the other tensors of the bucket. A NaN or Inf makes its whole tensor NaN.
///
/// One segment is one tensor. All must outlive the ticket, as must `terms`. If it ends with an
/// error, the tensors are undefined. Tags are Tag::of(sequence, 0..). Uses the lane's scratch slots
/// from kAggregateScratch on; allocates nothing once those have grown.
Ticket adasum(Lane& lane, Communicator& communicator, uint64_t sequence,
              std::span<const Segment> tensors, const Reduction& terms);

}  // namespace hora
