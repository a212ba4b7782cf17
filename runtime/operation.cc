#include "runtime/operation.h"

#include <time.h>
#include <unistd.h>

#include <climits>

#include <linux/futex.h>
#include <sys/syscall.h>

namespace hora {
namespace {

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation | FUTEX_PRIVATE_FLAG,
                   value, timeout, nullptr, 0);
}

}  // namespace

void Operation::complete() {
  handed = all_handed = false;
  running = 0;
  flight = {};
  state.store(kDone, std::memory_order_seq_cst);
  // The operation may be taken again from here on; its memory stays, so a late wake is harmless.
  if (sleepers.load(std::memory_order_seq_cst) != 0) futex(&state, FUTEX_WAKE, INT_MAX, nullptr);
}

void Operation::sleep(int64_t nanoseconds) {
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  if (state.load(std::memory_order_seq_cst) == kPending) {
    const timespec timeout{static_cast<time_t>(nanoseconds / 1'000'000'000),
                           static_cast<long>(nanoseconds % 1'000'000'000)};
    futex(&state, FUTEX_WAIT, kPending, &timeout);
  }
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

OperationPool::OperationPool() : free_(kLimit) {}

Operation* OperationPool::take() {
  uint32_t index = 0;
  while (!free_.pop(index))
    if (!grow()) return nullptr;
  Operation& operation = at(index);
  operation.state.store(Operation::kPending, std::memory_order_release);
  operation.status = {};
  return &operation;
}

void OperationPool::put(Operation* operation) {
  operation->outcome = {};
  operation->state.store(Operation::kFree, std::memory_order_relaxed);
  operation->generation.fetch_add(1, std::memory_order_release);
  free_.push(operation->index);
}

Operation* OperationPool::find(Handle handle) {
  const auto index = static_cast<uint32_t>(handle) - 1;
  if (handle == 0 || index >= made()) return nullptr;
  Operation& operation = at(index);
  const bool current = operation.generation.load(std::memory_order_acquire) == handle >> 32;
  const bool used = operation.state.load(std::memory_order_acquire) != Operation::kFree;
  return current && used ? &operation : nullptr;
}

bool OperationPool::grow() {
  const std::lock_guard lock(growing_);
  if (!free_.empty()) return true;  // somebody else grew it
  const size_t first = made_.load(std::memory_order_relaxed);
  if (first + kChunk > kLimit) return false;
  auto& chunk = chunks_[first / kChunk] = std::make_unique<Operation[]>(kChunk);
  for (uint32_t i = 0; i < kChunk; ++i) chunk[i].index = static_cast<uint32_t>(first) + i;
  made_.store(first + kChunk, std::memory_order_release);
  for (uint32_t i = kChunk; i > 0; --i) free_.push(chunk[i - 1].index);
  return true;
}

}  // namespace hora
