#pragma once

#include <memory>
#include <mutex>
#include <span>

#include "hora/status.h"
#include "ops/shm/memory.h"

namespace hora::shm {

/// A rank's own memory that its peers can reach: addresses for `limit` bytes are taken once, pages
/// as they are allocated. What was given out stays until the arena ends.
///
/// Threads: any.
class Arena {
 public:
  /// `limit` 0: as much as the machine has. Errors: kOutOfMemory.
  static Result<std::unique_ptr<Arena>> create(uint64_t limit);

  /// Zeroed, aligned to 64, and to a page if not smaller than one. Errors: kOutOfMemory.
  Result<std::span<std::byte>> allocate(size_t bytes);

  const Descriptor& memory() const { return memory_; }
  Descriptor& memory() { return memory_; }
  const std::shared_ptr<Mapping>& mapping() const { return mapping_; }

  Arena(Descriptor memory, std::shared_ptr<Mapping> mapping)
      : memory_(std::move(memory)), mapping_(std::move(mapping)) {}

 private:
  Descriptor memory_;
  const std::shared_ptr<Mapping> mapping_;
  std::mutex mutex_;
  size_t used_ = 0, real_ = 0;  ///< guarded by mutex_
};

}  // namespace hora::shm
