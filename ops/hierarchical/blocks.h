#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "ops/hierarchical/layout.h"

namespace hora::hierarchical {

/// A run of bytes.
struct Range {
  size_t begin = 0, end = 0;
  size_t bytes() const { return end - begin; }
};

inline Range overlap(const Range& one, const Range& other) {
  const size_t begin = std::max(one.begin, other.begin);
  return {begin, std::max(begin, std::min(one.end, other.end))};
}

/// The parts of all members, as an allgather or reduce_scatter has them, seen by host. The parts of
/// a host's members, by local index, make its *block*. A block is cut into chunks and each chunk
/// into a *piece* for each column, at cache lines. The piece of a column crosses between the
/// members of that column, so each byte crosses once for a host, by all columns alike, however
/// uneven the parts are.
///
/// Nothing is allocated after construction.
class Blocks {
 public:
  explicit Blocks(const Layout& layout);

  /// `amounts[r]` of `width` bytes each are member r's part.
  void assign(std::span<const size_t> amounts, size_t width);
  void cut(size_t chunks) { chunks_ = chunks; }
  size_t total() const { return total_; }

  /// Of the host's block.
  Range piece(size_t host, size_t chunk, size_t column) const;
  /// All columns' pieces, of the host's block.
  Range chunk(size_t host, size_t chunk) const;
  /// Bytes of all hosts' pieces of a chunk and column.
  size_t across(size_t chunk, size_t column) const;
  /// A member's part within the block of its host.
  Range part(size_t member) const { return {place_[member], place_[member] + bytes_[member]}; }

  /// Calls visit(at, begin, bytes) for what `range` of a host's block has of each member's part:
  /// `at` counts within all parts in the order of members, `begin` from the start of the range.
  template <class Visit>
  void visit(size_t host, const Range& range, Visit&& visit) const {
    for (const size_t member : layout_.members[host]) {
      const Range both = overlap(part(member), range);
      if (both.bytes() > 0)
        visit(begin_[member] + both.begin - place_[member], both.begin - range.begin, both.bytes());
    }
  }

 private:
  const Layout& layout_;
  size_t chunks_ = 1, total_ = 0;
  std::vector<size_t> block_;                  ///< bytes, by host
  std::vector<size_t> bytes_, begin_, place_;  ///< by member: of its part, before it, in the block
};

}  // namespace hora::hierarchical
