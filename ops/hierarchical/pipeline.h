#pragma once

#include <cstddef>

#include "ops/lane.h"

namespace hora::hierarchical {

/// An operation of two layers, cut into chunks. Each chunk goes through three stages: bytes are
/// brought to the members that speak with other hosts, cross between hosts, and are brought to
/// whom they are for. Stages of different chunks overlap, so memory that one chunk uses is kept for
/// kDepth chunks.
class Stages {
 public:
  static constexpr size_t kDepth = 2;  ///< chunks on their way at once

  virtual Ticket scatter(Lane& inside, size_t chunk) = 0;
  virtual Ticket cross(Lane& across, size_t chunk) = 0;
  virtual Ticket gather(Lane& inside, size_t chunk) = 0;

 protected:
  ~Stages() = default;
};

/// Runs stages so that both layers work at once: while a chunk crosses, the next one is scattered
/// and the one before gathered. Two coroutines on lanes of its own, which run() drives.
///
/// Order: scatter(0), then for each chunk k scatter(k + 1) and gather(k), the same on all members.
/// Threads: the driver of the lane. Errors: the first of a stage; the other layer is then aborted.
class Pipeline {
 public:
  explicit Pipeline(int lane) : inside_(lane), across_(lane) {}

  /// `stages` must outlive the ticket. One operation at a time.
  Ticket run(Lane& lane, Stages& stages, size_t chunks);

  /// Memory for stages, as of a lane.
  std::byte* scratch(size_t slot, size_t bytes) { return inside_.scratch(slot, bytes).data(); }

 private:
  Ticket run_inside();
  Ticket run_across();
  Status note(Status status);

  Lane inside_, across_;
  Stages* stages_ = nullptr;
  size_t chunks_ = 0, scattered_ = 0, crossed_ = 0;  ///< the latter two: so many are done
  Status failed_;
};

}  // namespace hora::hierarchical
