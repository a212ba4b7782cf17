#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include <sys/types.h>
#include <sys/uio.h>

#include "hora/status.h"
#include "ops/descriptor.h"

namespace hora::tcp {

class Tls;
class TlsKey;

/// Who has made a connection, and who has accepted it.
enum class Side : uint8_t { kClient, kServer };

/// One connection as two streams of bytes, in the clear or encrypted (tls.h). Everything that
/// connections between processes carry goes through here.
///
/// Encryption needs words from both sides before it carries any bytes: the client must write first,
/// and until then read() and write() give EAGAIN. Who was told EAGAIN, or that fewer bytes were
/// written than asked for, begins the next write() with the bytes that were left over. Bytes may
/// have come with the last ones that were read of which poll() knows nothing: read until EAGAIN.
///
/// Ownership: owns the descriptor. Threads: one at a time. read() and write() never wait, and never
/// raise SIGPIPE; they return the number of bytes moved, or -1 with the reason in `errno`: EAGAIN
/// if nothing can move now. Fewer bytes than asked for mean that the system has no more, or takes
/// no more, at present. 0 from read() is the end.
class Socket {
 public:
  Socket();
  /// Without a key: in the clear.
  explicit Socket(Descriptor descriptor, std::shared_ptr<const TlsKey> key = nullptr,
                  Side side = Side::kClient);
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  /// What tells that there is news; not to be read or written.
  int get() const { return descriptor_.get(); }
  bool valid() const { return descriptor_.valid(); }
  void reset() { descriptor_.reset(); }  ///< async-signal-safe

  ssize_t read(iovec* pieces, size_t count);
  ssize_t read(void* to, size_t bytes);
  ssize_t write(iovec* pieces, size_t count);
  ssize_t write(std::string_view bytes);

  /// The two sides have not agreed on their keys yet: EAGAIN from write() may mean that it must
  /// read.
  bool agreeing() const;

  /// Why the last call gave -1; to be asked right after it. kUnavailable: what the system says;
  /// else as Tls::error().
  Status failure() const;

 private:
  Descriptor descriptor_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace hora::tcp
