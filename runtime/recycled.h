#pragma once

#include <cstddef>
#include <vector>

namespace hora {

/// A vector whose clear() keeps its elements, and so the memory inside them, for the next use.
template <class T>
class Recycled {
 public:
  /// An element at the end, with whatever it held when it was last used.
  T& next() {
    if (used_ == all_.size()) all_.emplace_back();
    return all_[used_++];
  }
  void clear() { used_ = 0; }
  void drop_last() { --used_; }  ///< of at least one
  size_t size() const { return used_; }
  bool empty() const { return used_ == 0; }
  T& operator[](size_t index) { return all_[index]; }
  const T& operator[](size_t index) const { return all_[index]; }
  T* begin() { return all_.data(); }
  T* end() { return all_.data() + used_; }
  const T* begin() const { return all_.data(); }
  const T* end() const { return all_.data() + used_; }

 private:
  std::vector<T> all_;
  size_t used_ = 0;
};

}  // namespace hora
