#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "hora/request.h"

namespace hora {

/// Finds small numbers by hash, without owning the keys: the caller compares them. Open addressing,
/// so that adding and removing allocate nothing once the table has grown to its working size.
class NameIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  static uint64_t hash(SetId set, std::string_view name) {
    return mix(std::hash<std::string_view>()(name) + set);
  }
  static uint64_t hash(const void* pointer) { return mix(reinterpret_cast<uintptr_t>(pointer)); }

  /// The value added with `hash` for which same(value) holds, or kNone.
  template <class Same>
  uint32_t find(uint64_t hash, Same&& same) const {
    if (cells_.empty()) return kNone;
    const uint32_t tag = tag_of(hash);
    for (size_t at = tag & mask(); cells_[at].value != kNone; at = (at + 1) & mask())
      if (cells_[at].tag == tag && same(cells_[at].value)) return cells_[at].value;
    return kNone;
  }

  void add(uint64_t hash, uint32_t value) {
    if (2 * (count_ + 1) > cells_.size()) grow();
    place({tag_of(hash), value});
    ++count_;
  }

  void remove(uint64_t hash, uint32_t value) {
    if (cells_.empty()) return;
    size_t hole = tag_of(hash) & mask();
    while (cells_[hole].value != value) {
      if (cells_[hole].value == kNone) return;
      hole = (hole + 1) & mask();
    }
    --count_;
    // Cells behind the hole move up unless they would then lie before their home.
    for (size_t at = (hole + 1) & mask(); cells_[at].value != kNone; at = (at + 1) & mask()) {
      const size_t home = cells_[at].tag & mask();
      if (((at - home) & mask()) < ((at - hole) & mask())) continue;
      cells_[hole] = cells_[at];
      hole = at;
    }
    cells_[hole] = {};
  }

  void clear() {
    cells_.assign(cells_.size(), {});
    count_ = 0;
  }
  size_t count() const { return count_; }

 private:
  struct Cell {
    uint32_t tag = 0, value = kNone;
  };
  static uint64_t mix(uint64_t value) {
    value *= 0x9E3779B97F4A7C15u;
    return value ^ value >> 32;
  }
  static uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash); }
  size_t mask() const { return cells_.size() - 1; }
  void place(Cell cell) {
    size_t at = cell.tag & mask();
    while (cells_[at].value != kNone) at = (at + 1) & mask();
    cells_[at] = cell;
  }
  void grow() {
    std::vector<Cell> old(cells_.empty() ? 32 : 2 * cells_.size());
    old.swap(cells_);
    for (const Cell& cell : old)
      if (cell.value != kNone) place(cell);
  }

  std::vector<Cell> cells_;
  size_t count_ = 0;
};

}  // namespace hora
