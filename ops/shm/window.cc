#include "ops/shm/window.h"

#include "ops/shm/memory.h"

namespace hora::shm {
namespace {

size_t lanes_at(int ranks) {
  return kLine + round_up(static_cast<size_t>(ranks) * sizeof(uint32_t), kLine);
}

size_t rings_at(int ranks, int lanes) {
  return lanes_at(ranks) + static_cast<size_t>(lanes) * sizeof(LaneWindow);
}

}  // namespace

static_assert(std::atomic<uint64_t>::is_always_lock_free, "words are shared between processes");

size_t Window::bytes_for(int ranks, int lanes, int links) {
  return round_up(rings_at(ranks, lanes) + static_cast<size_t>(links) * sizeof(Ring), page_bytes());
}

std::atomic<uint32_t>* Window::armed() const {
  return reinterpret_cast<std::atomic<uint32_t>*>(base_);
}

std::span<uint32_t> Window::ring_of() const {
  return {reinterpret_cast<uint32_t*>(base_ + kLine), static_cast<size_t>(ranks_)};
}

LaneWindow& Window::lane(int index) const {
  return reinterpret_cast<LaneWindow*>(base_ + lanes_at(ranks_))[index];
}

Ring& Window::ring(int index) const {
  return reinterpret_cast<Ring*>(base_ + rings_at(ranks_, lanes_))[index];
}

Ring* Window::ring_to(int index) const {
  const uint32_t number = ring_of()[static_cast<size_t>(index)];
  return number == 0 ? nullptr : &ring(static_cast<int>(number) - 1);
}

}  // namespace hora::shm
