#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "hora/status.h"
#include "ops/descriptor.h"

namespace hora::shm {

/// A range of addresses that shows a memory file. It may be longer than the file; only what the
/// owner has reserved may be touched. A forked child does not have it.
class Mapping {
 public:
  /// Errors: kOutOfMemory.
  static Result<std::shared_ptr<Mapping>> map(int fd, size_t bytes);
  Mapping(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void forget() { data_ = nullptr; }  ///< in a forked child: the addresses may be somebody else's

 private:
  std::byte* data_;
  size_t bytes_;
};

/// Memory without a name: gone when the last process that has it is gone, and no mount's size
/// limits it. Can't shrink, so peers never get SIGBUS.
Result<Descriptor> make_memory(const char* name);

/// Makes [from, to) of `memory` real, zeroed pages. Errors: kOutOfMemory (and nothing is changed).
Status reserve(const Descriptor& memory, size_t from, size_t to);

/// "open memory file: Too many open files".
Status failed(Code code, const std::string& what, int error);

size_t round_up(size_t bytes, size_t granule);
size_t page_bytes();

}  // namespace hora::shm
