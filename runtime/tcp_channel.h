#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "ops/tcp/socket.h"
#include "runtime/control_channel.h"

namespace hora {

/// A proven connection to a neighbor of another host in the control tree.
struct TcpLink {
  Rank rank = 0;
  tcp::Socket socket;
};

/// Control frames over TCP to `links`, and over `inside` to the ranks of this host. The bell is
/// that of `inside`. Who only sleeps on the bell learns of frames from other hosts by arrivals().
///
/// A frame travels as its length (4 bytes, little-endian) and its bytes. A neighbor that closes or
/// breaks its connection, or sends what no neighbor sends, is lost; what it said before still
/// counts. At most 64 MiB wait for a neighbor that does not read.
///
/// `on_fork` is called by forget_in_child(), to close what else the connections need.
std::unique_ptr<ControlChannel> open_tcp_channel(std::unique_ptr<ControlChannel> inside,
                                                 std::vector<TcpLink> links,
                                                 std::function<void()> on_fork = {});

}  // namespace hora
