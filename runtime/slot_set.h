#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hora {

/// A set of slots of a node of the control tree. clear() keeps its memory.
class SlotSet {
 public:
  bool has(size_t slot) const {
    return slot / 64 < words_.size() && (words_[slot / 64] >> slot % 64 & 1) != 0;
  }
  void add(size_t slot) {
    if (slot / 64 >= words_.size()) words_.resize(slot / 64 + 1);
    words_[slot / 64] |= uint64_t{1} << slot % 64;
  }
  void clear() {
    for (uint64_t& word : words_) word = 0;
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace hora
