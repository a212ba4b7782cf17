#include "tests/links/hosts.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/links/shaper.h"

namespace hora::links {
namespace {

constexpr const char* kDevice = "eth0";

Status refused(const std::string& what) {
  return Status(Code::kUnavailable, fmt::format("{}: {}", what, ::strerrordesc_np(errno)));
}

Status write_file(const char* path, const std::string& text) {
  const Descriptor file(::open(path, O_WRONLY | O_CLOEXEC));
  if (!file.valid() || ::write(file.get(), text.data(), text.size()) < 0) return refused(path);
  return {};
}

ifreq request_for(const char* device) {
  ifreq request{};
  std::strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  return request;
}

Status become_root_of_a_user_namespace() {
  const auto user = ::getuid();
  const auto group = ::getgid();
  if (::unshare(CLONE_NEWUSER) != 0) return refused("a user namespace");
  HORA_TRY(write_file("/proc/self/setgroups", "deny"));
  HORA_TRY(write_file("/proc/self/uid_map", fmt::format("0 {} 1", user)));
  return write_file("/proc/self/gid_map", fmt::format("0 {} 1", group));
}

Status enter_new_host(size_t index) {
  constexpr int kOfAHost = CLONE_NEWNET | CLONE_NEWUTS;
  if (::unshare(kOfAHost) != 0) {
    if (errno != EPERM || index > 0) return refused("a network namespace");
    HORA_TRY(become_root_of_a_user_namespace());
    if (::unshare(kOfAHost) != 0) return refused("a network namespace");
  }
  const std::string name = fmt::format("h{}", index);
  if (::sethostname(name.data(), name.size()) != 0) return refused("the host's name");
  return {};
}

Status open_tap(Host& host) {
  host.tap.reset(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!host.tap.valid()) return refused("/dev/net/tun");
  ifreq request = request_for(kDevice);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(host.tap.get(), TUNSETIFF, &request) != 0) return refused("a tap device");
  int header = Shaper::kHeader;
  if (::ioctl(host.tap.get(), TUNSETVNETHDRSZ, &header) != 0) return refused("virtio headers");
  return set_large_segments(host, true);
}

Status set_flags(int socket, const char* device, bool up) {
  ifreq request = request_for(device);
  request.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0;
  if (::ioctl(socket, SIOCSIFFLAGS, &request) != 0) return refused(device);
  return {};
}

Status set_ipv4(int socket, unsigned long what, const std::string& address) {
  ifreq request = request_for(kDevice);
  sockaddr_in value{};
  value.sin_family = AF_INET;
  ::inet_pton(AF_INET, address.c_str(), &value.sin_addr);
  std::memcpy(&request.ifr_addr, &value, sizeof(value));
  if (::ioctl(socket, what, &request) != 0) return refused("address " + address);
  return {};
}

Status set_ipv6(const std::string& address) {
  const Descriptor socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return {};  // a machine without it
  struct {                         // in6_ifreq of a header that does not go with netinet/in.h
    in6_addr address;
    uint32_t prefix_bits;
    int device;
  } request{};
  ::inet_pton(AF_INET6, address.c_str(), &request.address);
  request.prefix_bits = 64;
  request.device = static_cast<int>(::if_nametoindex(kDevice));
  if (::ioctl(socket.get(), SIOCSIFADDR, &request) != 0) return refused("address " + address);
  return {};
}

Status give_addresses(size_t index, Descriptor& socket) {
  socket.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return refused("a socket");
  ifreq hardware = request_for(kDevice);
  hardware.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  const std::string address = Shaper::address(index);
  std::memcpy(hardware.ifr_hwaddr.sa_data, address.data(), address.size());
  if (::ioctl(socket.get(), SIOCSIFHWADDR, &hardware) != 0) return refused("hardware address");
  // Else an address is not usable until nobody has objected to it for a second.
  if (::access("/proc/sys/net/ipv6/conf/eth0/accept_dad", F_OK) == 0)
    HORA_TRY(write_file("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0"));
  HORA_TRY(set_flags(socket.get(), "lo", true));
  HORA_TRY(set_ipv4(socket.get(), SIOCSIFADDR, fmt::format("10.77.0.{}", index + 1)));
  HORA_TRY(set_ipv4(socket.get(), SIOCSIFNETMASK, "255.255.255.0"));
  HORA_TRY(set_flags(socket.get(), kDevice, true));
  return set_ipv6(fmt::format("fd77::{}", index + 1));
}

}  // namespace

Status set_large_segments(const Host& host, bool allowed) {
  const unsigned long offload = TUN_F_CSUM | (allowed ? TUN_F_TSO4 | TUN_F_TSO6 : 0);
  if (::ioctl(host.tap.get(), TUNSETOFFLOAD, offload) != 0) return refused("segmentation offload");
  return {};
}

Status set_up(const Host& host, bool up) {
  return set_flags(host.control.get(), kDevice, up);
}

Result<std::vector<Host>> make_hosts(size_t count) {
  std::vector<Host> hosts(count);
  for (size_t i = 0; i < count; ++i) {
    HORA_TRY(enter_new_host(i));
    HORA_TRY(open_tap(hosts[i]));
    HORA_TRY(give_addresses(i, hosts[i].control));
    hosts[i].network.reset(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    hosts[i].name.reset(::open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC));
    if (!hosts[i].network.valid() || !hosts[i].name.valid()) return refused("/proc/self/ns");
  }
  return hosts;
}

}  // namespace hora::links
