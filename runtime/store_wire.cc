#include "runtime/store_wire.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include <sys/socket.h>

namespace hora::store_wire {

static_assert(std::endian::native == std::endian::little, "lengths are written as they lie");

tcp::Identity identity_of(std::string_view job) {
  return {tcp::job_of(job), 0, tcp::kNobody};
}

std::string header(size_t body_bytes, uint8_t kind) {
  const auto length = static_cast<uint32_t>(body_bytes + 1);
  std::string text(kHeader, '\0');
  std::memcpy(text.data(), &length, sizeof(length));
  text[4] = static_cast<char>(kind);
  return text;
}

uint32_t length_in(std::string_view frame) {
  uint32_t length = 0;
  std::memcpy(&length, frame.data(), sizeof(length));
  return length;
}

std::optional<sockaddr_un> socket_address(std::string_view address) {
  constexpr std::string_view kScheme = "unix:";
  if (!address.starts_with(kScheme)) return {};
  address.remove_prefix(kScheme.size());
  sockaddr_un result{};
  result.sun_family = AF_UNIX;
  if (address.empty() || address.size() >= sizeof(result.sun_path)) return {};
  if (address[0] != '/' && address[0] != '@') return {};
  std::copy(address.begin(), address.end(), result.sun_path);
  if (address[0] == '@') result.sun_path[0] = '\0';
  return result;
}

bool peer_is_same_user(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
         peer.uid == ::geteuid();
}

}  // namespace hora::store_wire
