#include "ops/shm/arena.h"

#include <unistd.h>

#include <algorithm>

#include <sys/mman.h>

namespace hora::shm {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kGrow = 1 << 20;  // small requests share a reservation

uint64_t bytes_of_machine() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * page_bytes();
}

}  // namespace

Result<std::unique_ptr<Arena>> Arena::create(uint64_t limit) {
  Result<Descriptor> memory = make_memory("hora-arena");
  if (!memory.ok()) return memory.status();
  const size_t bytes = round_up(limit == 0 ? bytes_of_machine() : limit, page_bytes());
  Result<std::shared_ptr<Mapping>> mapping = Mapping::map(memory.value().get(), bytes);
  if (!mapping.ok()) return mapping.status();
  return std::make_unique<Arena>(std::move(memory).value(), mapping.value());
}

Result<std::span<std::byte>> Arena::allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const size_t begin = round_up(used_, bytes >= page_bytes() ? page_bytes() : kAlign);
  const size_t limit = mapping_->bytes();
  if (begin > limit || bytes > limit - begin)
    return Status(Code::kOutOfMemory, "shm: the arena has " + std::to_string(used_) + " of " +
                                          std::to_string(limit) + " bytes in use; " +
                                          std::to_string(bytes) + " more do not fit");
  if (const size_t end = begin + bytes; end > real_) {
    const size_t grown = std::min(limit, std::max(round_up(end, page_bytes()), real_ + kGrow));
    HORA_TRY(reserve(memory_, real_, grown));
    // Page tables now rather than in the first step; the pages themselves are real already.
    ::madvise(mapping_->data() + real_, grown - real_, MADV_POPULATE_WRITE);
    real_ = grown;
  }
  used_ = begin + bytes;
  return std::span(mapping_->data() + begin, bytes);
}

}  // namespace hora::shm
