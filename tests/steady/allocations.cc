#include "tests/steady/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<uint64_t> counted{0};
}  // namespace

uint64_t hora::allocations() {
  return counted.load();
}

void* operator new(size_t bytes) {
  counted.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(bytes);
  if (!memory) std::abort();
  return memory;
}
void* operator new(size_t bytes, std::align_val_t align) {
  counted.fetch_add(1, std::memory_order_relaxed);
  const size_t unit = static_cast<size_t>(align);
  void* const memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
  if (!memory) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}
