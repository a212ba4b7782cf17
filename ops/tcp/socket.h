#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include <sys/types.h>
#include <sys/uio.h>

#include "ops/descriptor.h"

namespace hora::tcp {

/// One connection as two streams of bytes. Everything that connections between processes carry goes
/// through here, whatever happens to it on the way.
///
/// Ownership: owns the descriptor. Threads: one at a time. read() and write() never wait, and never
/// raise SIGPIPE; they return the number of bytes moved, or -1 with the reason in `errno`: EAGAIN
/// if nothing can move now. Fewer bytes than asked for mean that the system has no more, or takes
/// no more, at present. 0 from read() is the end.
class Socket {
 public:
  Socket() = default;
  explicit Socket(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

  /// What tells that there is news; not to be read or written.
  int get() const { return descriptor_.get(); }
  bool valid() const { return descriptor_.valid(); }
  void reset() { descriptor_.reset(); }

  ssize_t read(iovec* pieces, size_t count);
  ssize_t read(void* to, size_t bytes);
  ssize_t write(iovec* pieces, size_t count);
  ssize_t write(std::string_view bytes);

 private:
  Descriptor descriptor_;
};

}  // namespace hora::tcp
