#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "hora/status.h"

namespace hora::shm {

/// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { close(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close();  ///< async-signal-safe

 private:
  int fd_ = -1;
};

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
