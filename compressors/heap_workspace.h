#pragma once

#include <cstddef>
#include <vector>

#include "compressors/codec.h"

namespace hora {

/// A workspace on the heap, for codecs that are tried outside of a lane.
class HeapWorkspace final : public Workspace {
 public:
  std::byte* memory(size_t slot, size_t bytes) override {
    if (slots_.size() <= slot) slots_.resize(slot + 1);
    if (slots_[slot].size() * 64 < bytes) slots_[slot] = std::vector<Line>(bytes / 64 + 1);
    return reinterpret_cast<std::byte*>(slots_[slot].data());
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<std::vector<Line>> slots_;
};

}  // namespace hora
