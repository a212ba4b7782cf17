#pragma once

#include <cstddef>
#include <vector>

#include "hora/status.h"
#include "ops/descriptor.h"

namespace hora::links {

/// A host that is a network namespace of this machine, with a name of its own ("h0"), the addresses
/// 10.77.0.1 and fd77::1 (for host 0) on eth0, and loopback. It lives as long as its descriptors or
/// a process in it, so nothing is left behind however this program ends.
struct Host {
  Descriptor network, name;  ///< for setns(): the namespaces
  Descriptor tap;            ///< the other end of eth0; packets with virtio headers; non-blocking
  Descriptor control;        ///< a socket of the host, for what is asked of its interfaces
};

/// Makes hosts and leaves this process in the last one's namespaces; without the privilege in a
/// user namespace, of which it is then the root. Errors: kUnavailable: not permitted here, or the
/// kernel lacks it.
Result<std::vector<Host>> make_hosts(size_t count);

/// May the host hand over segments larger than a packet? Cheaper, but one loss takes them all.
Status set_large_segments(const Host& host, bool allowed);

/// Takes the host's eth0 down, and its routes with it, or brings it up again.
Status set_up(const Host& host, bool up);

}  // namespace hora::links
