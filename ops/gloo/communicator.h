#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/backend.h"
#include "ops/gloo/mesh.h"
#include "ops/gloo/worker.h"
#include "ops/plugin.h"

namespace hora::gloo {

/// One set on one lane: a mesh of its own, connected by the first operation, and a thread of its
/// own that works on it.
///
/// An operation that failed leaves members in different states, so it cuts the connections, the
/// others notice, and every later operation fails.
///
/// Threads: the lane's driver; abort() any.
class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(std::shared_ptr<::gloo::transport::Device> device, const PluginContext& context,
                   std::string prefix, std::vector<Rank> ranks, int member);
  ~GlooCommunicator() override;

  int rank() const override { return mesh_.member(); }
  int size() const override { return mesh_.size(); }

  Ticket allreduce(Lane& lane, uint64_t tag, std::span<const Segment> segments,
                   const Reduction& reduction) override;
  Ticket reduce_scatter(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                        std::span<const size_t> counts, const Reduction& reduction) override;
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override;
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override;
  Ticket broadcast(Lane& lane, uint64_t tag, std::span<const Segment> segments, int root) override;
  Ticket barrier(Lane& lane, uint64_t tag) override;
  void abort() override { mesh_.abort(); }

 private:
  /// Runs `work(scratch)` on the worker's thread, connected, and cleans up after it.
  template <class Work>
  Ticket run(Lane& lane, size_t scratch_bytes, Work work);

  Mesh mesh_;
  uint64_t operations_ = 0;  // the worker's
  Status broken_;            // the worker's
  Worker worker_;            // last: its thread uses the others
};

}  // namespace hora::gloo
