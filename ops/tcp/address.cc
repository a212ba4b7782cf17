#include "ops/tcp/address.h"

#include <ifaddrs.h>
#include <netdb.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <functional>
#include <memory>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

namespace hora::tcp {
namespace {

const in6_addr& six(const Address& address) {
  return reinterpret_cast<const sockaddr_in6*>(&address.where)->sin6_addr;
}

Address address_of(const sockaddr* where) {
  Address address;
  address.bytes = where->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  std::memcpy(&address.where, where, address.bytes);
  return address;
}

using Interfaces = std::unique_ptr<ifaddrs, void (*)(ifaddrs*)>;

Interfaces interfaces() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) first = nullptr;
  return {first, [](ifaddrs* list) {
            if (list) ::freeifaddrs(list);
          }};
}

bool of_a_link(const Address& address) {
  return address.family() == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&six(address));
}

/// An address of a link is complete with its interface only.
void add_on_every_link(const Address& address, std::vector<Address>& all) {
  const Interfaces list = interfaces();
  for (const ifaddrs* each = list.get(); each; each = each->ifa_next) {
    if (!each->ifa_addr || each->ifa_addr->sa_family != AF_INET6) continue;
    const Address mine = address_of(each->ifa_addr);
    if (!of_a_link(mine)) continue;
    Address one = address;
    reinterpret_cast<sockaddr_in6*>(&one.where)->sin6_scope_id =
        reinterpret_cast<const sockaddr_in6*>(&mine.where)->sin6_scope_id;
    all.push_back(one);
  }
}

Status add_host(const std::string& host, uint16_t port, std::vector<Address>& all) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); error != 0)
    return Status(Code::kUnavailable, fmt::format("{}: {}", host, ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> keep(found, ::freeaddrinfo);
  for (const addrinfo* each = found; each; each = each->ai_next) {
    if (each->ai_family != AF_INET && each->ai_family != AF_INET6) continue;
    Address address = address_of(each->ai_addr);
    address.set_port(port);
    const bool needs_link =
        of_a_link(address) &&
        reinterpret_cast<const sockaddr_in6*>(&address.where)->sin6_scope_id == 0;
    needs_link ? add_on_every_link(address, all) : all.push_back(address);
  }
  return {};
}

/// Splits "host:port" and "[host]:port".
bool split(std::string_view part, std::string& host, uint16_t& port) {
  const size_t colon = part.rfind(':');
  if (colon == part.npos || colon == 0) return false;
  std::string_view name = part.substr(0, colon);
  const std::string_view digits = part.substr(colon + 1);
  if (digits.empty() || digits.size() > 5 || digits.find_first_not_of("0123456789") != digits.npos)
    return false;
  const unsigned long number = std::stoul(std::string(digits));
  const bool bracketed = name.size() > 2 && name.front() == '[' && name.back() == ']';
  if (bracketed) name = name.substr(1, name.size() - 2);
  if (number == 0 || number > 65535 || (!bracketed && name.find(':') != name.npos)) return false;
  host = name;
  port = static_cast<uint16_t>(number);
  return true;
}

Status each_part(std::string_view list, const std::function<Status(std::string_view)>& take) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    std::string_view part = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    if (!part.empty()) HORA_TRY(take(part));
  }
  return {};
}

Status no_socket(const Address& where) {
  return Status(Code::kUnavailable,
                fmt::format("tcp: cannot listen at {}: {}", where.text(), std::strerror(errno)));
}

Result<Descriptor> listen_with(const Address& where, uint64_t buffer_bytes, bool both_families) {
  Descriptor socket(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1, only_six = both_families ? 0 : 1;
  if (!socket.valid()) return no_socket(where);
  // A store's port must be free at once for the next job; a port that somebody listens at stays
  // refused.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (where.family() == AF_INET6)
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only_six, sizeof(only_six));
  prepare(socket.get(), buffer_bytes);  // connections inherit it, and buffers count from the start
  if (::bind(socket.get(), where.get(), where.bytes) != 0 || ::listen(socket.get(), SOMAXCONN) != 0)
    return no_socket(where);
  return socket;
}

/// Listens at all addresses of this machine.
Result<Descriptor> listen_anywhere(uint16_t port, uint64_t buffer_bytes) {
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_any;
  six.sin6_port = htons(port);
  auto both = listen_with(address_of(reinterpret_cast<const sockaddr*>(&six)), buffer_bytes, true);
  if (both.ok()) return both;
  sockaddr_in four{};  // a machine without IPv6
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = INADDR_ANY;
  four.sin_port = htons(port);
  return listen_with(address_of(reinterpret_cast<const sockaddr*>(&four)), buffer_bytes, false);
}

}  // namespace

uint16_t Address::port() const {
  // The port is at the same place in both families.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&where)->sin_port);
}

void Address::set_port(uint16_t port) {
  reinterpret_cast<sockaddr_in*>(&where)->sin_port = htons(port);
}

std::string Address::host() const {
  char name[NI_MAXHOST] = "?";
  if (family() == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six(*this)))
    ::inet_ntop(AF_INET, six(*this).s6_addr + 12, name, sizeof(name));
  else
    ::getnameinfo(get(), bytes, name, sizeof(name), nullptr, 0, NI_NUMERICHOST);
  return name;
}

std::string Address::text() const {
  const std::string name = host();
  return name.find(':') == name.npos ? fmt::format("{}:{}", name, port())
                                     : fmt::format("[{}]:{}", name, port());
}

Result<std::vector<Address>> resolve(std::string_view list) {
  std::vector<Address> all;
  HORA_TRY(each_part(list, [&](std::string_view part) -> Status {
    std::string host;
    uint16_t port = 0;
    if (!split(part, host, port))
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: expected host:port or [address]:port", part));
    return add_host(host, port, all);
  }));
  return all;
}

Result<std::vector<Address>> resolve_hosts(std::string_view list, uint16_t port) {
  std::vector<Address> all;
  HORA_TRY(each_part(list, [&](std::string_view part) -> Status {
    if (part.size() > 2 && part.front() == '[' && part.back() == ']')
      part = part.substr(1, part.size() - 2);
    return add_host(std::string(part), port, all);
  }));
  return all;
}

std::vector<Address> own_addresses(uint16_t port) {
  std::vector<Address> others, links, loopback;
  const Interfaces list = interfaces();
  for (const ifaddrs* each = list.get(); each; each = each->ifa_next) {
    if (!each->ifa_addr || !(each->ifa_flags & IFF_UP)) continue;
    if (each->ifa_addr->sa_family != AF_INET && each->ifa_addr->sa_family != AF_INET6) continue;
    Address address = address_of(each->ifa_addr);
    address.set_port(port);
    const bool link = of_a_link(address);
    // The interface's number means nothing to another host.
    if (link) reinterpret_cast<sockaddr_in6*>(&address.where)->sin6_scope_id = 0;
    const bool loops = each->ifa_flags & IFF_LOOPBACK;
    (loops ? loopback : link ? links : others).push_back(address);
  }
  others.insert(others.end(), links.begin(), links.end());
  others.insert(others.end(), loopback.begin(), loopback.end());
  return others;
}

std::string peer_of(int socket) {
  Address address;
  address.bytes = sizeof(address.where);
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address.where), &address.bytes) != 0)
    return "an unknown address";
  return address.text();
}

Result<Descriptor> listen_at(const Address& where, uint64_t buffer_bytes) {
  return listen_with(where, buffer_bytes, false);
}

Address bound_to(int socket) {
  Address address;
  address.bytes = sizeof(address.where);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address.where), &address.bytes);
  return address;
}

Result<Listening> listen_for_peers(std::string_view bind, uint16_t port, uint64_t buffer_bytes) {
  Listening result;
  std::vector<Address> reached;
  if (bind.empty()) {
    auto socket = listen_anywhere(port, buffer_bytes);
    if (!socket.ok()) return socket.status();
    const Address bound = bound_to(socket.value().get());
    for (const Address& own : own_addresses(bound.port()))
      if (own.family() == AF_INET || bound.family() == AF_INET6) reached.push_back(own);
    result.sockets.push_back(std::move(socket).value());
  } else {
    auto wanted = resolve_hosts(bind, port);
    if (!wanted.ok()) return wanted.status();
    for (const Address& where : wanted.value()) {
      auto socket = listen_at(where, buffer_bytes);
      if (!socket.ok()) return socket.status();
      reached.push_back(bound_to(socket.value().get()));
      result.sockets.push_back(std::move(socket).value());
    }
  }
  for (const Address& each : reached)
    result.addresses += (result.addresses.empty() ? "" : ",") + each.text();
  return result;
}

bool control_congestion(int socket, std::string_view name) {
  return ::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                      static_cast<socklen_t>(name.size())) == 0;
}

void prepare(int socket, uint64_t buffer_bytes) {
  const int yes = 1, bytes = static_cast<int>(std::min<uint64_t>(buffer_bytes, INT_MAX));
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  for (const std::string_view name : {"cubic", "reno"})
    if (control_congestion(socket, name)) break;
  if (bytes == 0) return;
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  ::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

}  // namespace hora::tcp
