#pragma once

#include <cstddef>
#include <cstdint>

namespace hora::tcp {

/// What goes before every message on a data connection; little-endian, as all that Hora runs on.
/// The receiver knows what must come and compares: nothing in it is believed.
///
///   magic:u32 epoch:u32 tag:u64 channel:u32 index:u32 bytes:u64, then `bytes` of payload
struct Header {
  static constexpr uint32_t kMagic = 0x31445248;  ///< "HRD1": the number is the format's version
  uint32_t magic = kMagic;
  uint32_t epoch = 0;
  uint64_t tag = 0;      ///< of the operation
  uint32_t channel = 0;  ///< see Stream
  uint32_t index = 0;    ///< of the message in the operation, for this pair, direction and channel
  uint64_t bytes = 0;

  friend bool operator==(const Header&, const Header&) = default;
};
constexpr size_t kHeaderBytes = 32;
static_assert(sizeof(Header) == kHeaderBytes);

}  // namespace hora::tcp
