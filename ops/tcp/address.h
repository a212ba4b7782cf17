#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "hora/status.h"
#include "ops/descriptor.h"

namespace hora::tcp {

/// Where somebody listens: an IPv4 or IPv6 address and a port.
struct Address {
  sockaddr_storage where{};
  socklen_t bytes = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&where); }
  int family() const { return where.ss_family; }
  uint16_t port() const;
  void set_port(uint16_t port);
  std::string host() const;  ///< text() without the port and without brackets
  /// "10.0.0.1:4711", "[fe80::1%eth0]:4711"; what arrived at an IPv6 socket by IPv4 is shown as
  /// IPv4.
  std::string text() const;
};

/// What "host:port,[host]:port" stands for, in this order; names are looked up, which may take a
/// while. An IPv6 address of a link without its interface stands for one on each of this machine's.
/// Errors: kInvalidArgument says which part has no such form; kUnavailable which name is unknown.
Result<std::vector<Address>> resolve(std::string_view list);

/// The same for "host,host" without ports; what other programs listen at is none of its business.
Result<std::vector<Address>> resolve_hosts(std::string_view list, uint16_t port = 0);

/// This machine's addresses that are up, those that other hosts may reach first, loopback last.
std::vector<Address> own_addresses(uint16_t port);

/// The other end of a socket, for messages.
std::string peer_of(int socket);

/// A non-blocking socket that listens at `where`; port 0: any free one, see bound_to().
Result<Descriptor> listen_at(const Address& where, uint64_t buffer_bytes);

Address bound_to(int socket);

/// Sockets for connections from other hosts, and what reaches them: "10.0.0.1:4711,[::1]:4711".
struct Listening {
  std::vector<Descriptor> sockets;
  std::string addresses;
};

/// Listens at the addresses in `bind` (commas between), or at all of this machine if it is empty.
/// Errors: kUnavailable and kInvalidArgument name the address at fault.
Result<Listening> listen_for_peers(std::string_view bind, uint16_t port, uint64_t buffer_bytes);

/// What every connection of ours has: no delay of small writes, buffers of this size (0 bytes: as
/// the system likes), and a congestion control that sends at once what its window allows. What
/// probes for bandwidth, such as bbr, paces to its estimate: between near hosts that costs most of
/// the throughput, and who measures a link would see the estimate. For `socket` before it connects:
/// a pace once set stays.
void prepare(int socket, uint64_t buffer_bytes);

/// Names the congestion control of a TCP socket. False if this system does not have or allow it.
bool control_congestion(int socket, std::string_view name);

}  // namespace hora::tcp
