#include "ops/lane.h"

#include <cstdlib>

#include "hora/status.h"
#include "ops/relax.h"

namespace hora {
namespace {

/// Coroutine frames of one thread, by size class of 64 bytes. A frame freed on another thread than
/// it was made on just changes stores.
struct FrameStore {
  static constexpr size_t kClass = 64, kClasses = 64, kKept = 16;
  std::array<std::vector<void*>, kClasses> free;
  ~FrameStore() {
    for (auto& frames : free)
      for (void* frame : frames) std::free(frame);
  }
};

FrameStore& frames() {
  thread_local FrameStore store;
  return store;
}

size_t class_of(size_t bytes) {
  return (bytes + FrameStore::kClass - 1) / FrameStore::kClass;
}

}  // namespace

void* Ticket::promise_type::operator new(size_t bytes) {
  const size_t index = class_of(bytes);
  if (index < FrameStore::kClasses) {
    auto& kept = frames().free[index];
    if (!kept.empty()) {
      void* frame = kept.back();
      kept.pop_back();
      return frame;
    }
  }
  void* frame = std::malloc(index * FrameStore::kClass);
  HORA_CHECK(frame != nullptr, "no memory for a coroutine frame");
  return frame;
}

void Ticket::promise_type::operator delete(void* frame, size_t bytes) {
  const size_t index = class_of(bytes);
  if (index < FrameStore::kClasses) {
    auto& kept = frames().free[index];
    if (kept.size() < FrameStore::kKept) return kept.push_back(frame);
  }
  std::free(frame);
}

void Ticket::promise_type::unhandled_exception() {
  HORA_CHECK(false, "an exception reached a lane");
}

void Lane::start(Ticket ticket) {
  HORA_CHECK(idle(), "lane " + std::to_string(index_) + " is busy");
  running_ = std::move(ticket);
  outcome_ = {};
  waiting_ = nullptr;
  running_.coroutine_.resume();
  if (!running_.coroutine_.done()) return;
  outcome_ = running_.await_resume();
  running_ = {};
}

bool Lane::progress() {
  if (idle() || !waiting_ || !waiting_->poll(waiting_)) return false;
  std::exchange(waiting_, nullptr)->suspended.resume();
  if (running_.coroutine_.done()) {
    outcome_ = running_.await_resume();
    running_ = {};
  }
  return true;
}

void Lane::abort(Status why) {
  if (!aborted()) why_ = std::move(why);
}

void Lane::relax() {
  cpu_relax();
}

void Lane::Free::operator()(std::byte* memory) const {
  std::free(memory);
}

std::span<std::byte> Lane::scratch(size_t slot, size_t bytes) {
  if (slot >= scratch_.size()) scratch_.resize(slot + 1);
  Scratch& scratch = scratch_[slot];
  if (scratch.bytes < bytes) {
    constexpr size_t kAlign = 64;
    const size_t rounded = (bytes + bytes / 4 + kAlign - 1) / kAlign * kAlign;
    scratch.memory.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, rounded)));
    HORA_CHECK(scratch.memory != nullptr,
               "no memory for " + std::to_string(rounded) + " bytes of scratch");
    scratch.bytes = rounded;
  }
  return {scratch.memory.get(), bytes};
}

}  // namespace hora
