#pragma once

#include <span>
#include <vector>

#include "hora/status.h"
#include "ops/backend.h"
#include "ops/shm/group.h"

namespace hora::shm {

/// Writes where `segments` are into this rank's window. Returns whether any is in its arena.
bool describe(const Member& me, std::span<const Segment> segments, size_t width);

/// Splits an allreduce in two: what lies in every member's arena (in pieces, cut at every member's
/// boundaries), and the rest (in this rank's segments). Pure arithmetic on what members described,
/// so all members split alike. Keeps its memory from operation to operation.
class Split {
 public:
  /// Errors: kCorrupt names the member whose description makes no sense.
  Status make(const Group& group, std::span<const Segment> segments, size_t width);

  size_t common() const { return common_; }  ///< elements in all arenas
  size_t pieces() const { return counts_.size(); }
  size_t count(size_t piece) const { return counts_[piece]; }
  /// Each member's memory of a piece.
  std::span<std::byte* const> memory(size_t piece) const {
    return std::span(memory_).subspan(piece * members_, members_);
  }
  std::span<const Segment> rest() const { return rest_; }

 private:
  struct At {
    const Runs* runs;
    size_t run, inside;  // bytes
  };
  Status advance(const Group& group, size_t left, size_t& bytes, bool& everywhere);
  void skip(size_t bytes);

  size_t members_ = 0, common_ = 0;
  std::vector<At> at_;
  std::vector<size_t> counts_;
  std::vector<std::byte*> memory_;
  std::vector<Segment> rest_;
};

}  // namespace hora::shm
