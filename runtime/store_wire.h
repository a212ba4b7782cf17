#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/un.h>

#include "ops/tcp/handshake.h"

namespace hora::store_wire {

// What travels between a store's clients and its server, over TCP after the handshake of
// ops/tcp/handshake.h with role store, epoch 0 and no rank:
//
//   request := length:u32 kind:u8 body         length counts kind and body
//   body    := key_bytes:u16 key value         kind 1, set: the value is the rest
//            | key                             kind 2, get: answered when somebody has set the key
//   reply   := length:u32 code:u8 text         code is a hora::Code; ok: the value (get) or nothing
//                                              (set), else the message
//
// Numbers are little-endian. A connection carries one request at a time: whoever sends
// before the last reply came is cut off, as is whoever sends anything that is not a request.

constexpr uint8_t kSet = 1, kGet = 2;
constexpr size_t kHeader = 5;  // length and kind, or length and code
constexpr size_t kMaxKey = 4096, kMaxValue = size_t{1} << 20;
constexpr size_t kMaxBody = 2 + kMaxKey + kMaxValue;

constexpr std::string_view kTcpScheme = "tcp://";

/// Both sides of the handshake: a store is of no epoch, and whoever asks needs no rank.
tcp::Identity identity_of(std::string_view job);

std::string header(size_t body_bytes, uint8_t kind);
uint32_t length_in(std::string_view frame);  ///< of at least 4 bytes

/// The path in "unix:/path", ready for bind() and connect(), or the name in "unix:@name", which is
/// in no folder and goes with its socket; nothing if it does not fit or is neither.
std::optional<sockaddr_un> socket_address(std::string_view address);

/// Does the process at the other end belong to this process's user?
bool peer_is_same_user(int socket);

}  // namespace hora::store_wire
