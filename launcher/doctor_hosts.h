#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launcher/hosts.h"
#include "launcher/remote_host.h"
#include "launcher/run.h"
#include "ops/cost_model.h"
#include "runtime/clock.h"

namespace hora {

/// What is right and wrong with several hosts, and what to do about it.
struct HostsPage {
  bool ok = false;
  std::string text;
  std::optional<LinkCost> slowest;  ///< the link between two of them; none: none was seen
};

/// Goes to each host as horarun would, asks who it is, compares clocks, and has each reach each
/// other as ranks do. Runs in the child of run_guarded(). Takes `timeout` and some seconds at most
/// for each host that does not answer.
HostsPage inspect_hosts(const std::vector<RemoteHost::Route>& routes, const Clock& clock,
                        std::chrono::milliseconds timeout);

/// Visits `options.hosts` but for this machine and hands the page to `use`, whose result it gives.
/// Nothing is left running.
int visit_hosts(const RunOptions& options, std::chrono::milliseconds timeout,
                const std::function<int(const HostsPage&)>& use);

/// `hora doctor` with options.
int doctor_main(const std::vector<std::string>& arguments);

}  // namespace hora
