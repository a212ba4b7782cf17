// Gloo asks a connection that was just made for its peer's address, in the device's thread, and
// throws when the peer has already reset it: that ends the process, and any port scanner can do it.
// This definition comes before libgloo's own for the loader (a plug-in is searched before what it
// depends on) and gives an empty address then. Gloo goes on, and meets the reset as an ordinary
// error when it reads.
#include <sys/socket.h>

#pragma GCC visibility push(default)
#include <gloo/transport/tcp/address.h>

namespace gloo::transport::tcp {

Address Address::fromPeerName(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    address = {};
    address.ss_family = AF_INET;
  }
  return Address(address);
}

}  // namespace gloo::transport::tcp
#pragma GCC visibility pop
