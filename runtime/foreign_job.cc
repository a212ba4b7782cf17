#include "runtime/foreign_job.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include <fmt/format.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

constexpr std::string_view kTcp = "tcp://";
// Below those that the system gives to whoever asks for any.
constexpr uint64_t kFirstPort = 20'000, kPorts = 12'000;
constexpr int kMostHosts = 1 << 20;

uint64_t hash_of(std::string_view text) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

std::optional<int> number_of(const Lookup& given, std::string_view name) {
  const std::string* const text = given(name);
  const auto number = text ? parse_integer(*text) : std::nullopt;
  if (!number || *number > kMostHosts) return {};
  return static_cast<int>(*number);
}

/// NAME=VALUE lines that tell this job from others; empty: none does. MPICH's Hydra leaves no such
/// variable, but all ranks of a host are children of one process.
std::string traits_of(const Lookup& given, int parent, std::string& origin) {
  constexpr std::string_view kKinds[][3] = {
      {"MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"},
      {"PMIX_NAMESPACE", "", ""},
      {"OMPI_MCA_ess_base_jobid", "", ""},
      {"I_MPI_HYDRA_UUID", "", ""},
      {"SLURM_STEP_ID", "SLURM_JOB_ID", ""}};
  std::string traits;
  for (const auto& kind : kKinds) {
    if (!given(kind[0])) continue;
    for (const std::string_view name : kind)
      if (const std::string* const text = name.empty() ? nullptr : given(name))
        traits += fmt::format("{}={}\n", name, *text);
    origin = kind[0];
    return traits;
  }
  if (parent <= 0 || !given("PMI_RANK")) return {};
  origin = "parent process";
  return fmt::format("parent {}", parent);
}

/// Rank 0's host and a port there that all ranks know without asking; empty: the launcher tells
/// neither.
std::string meeting_place(const Lookup& given, uint64_t hash) {
  const auto at = [](const std::string& host, uint64_t port) {
    const bool bracketed = host.find(':') != host.npos && host[0] != '[';
    return fmt::format("{}{}{}{}:{}", kTcp, bracketed ? "[" : "", host, bracketed ? "]" : "", port);
  };
  const std::string* const master = given("MASTER_ADDR");
  const auto port = given("MASTER_PORT") ? parse_integer(*given("MASTER_PORT")) : std::nullopt;
  if (master && port) return at(*master, *port + 1);  // torch's own store has the port itself
  if (const std::string* const list = given("SLURM_STEP_NODELIST"))
    return at(first_slurm_host(*list), kFirstPort + hash % kPorts);
  return {};
}

Status lacking(std::string_view text) {
  return Status(Code::kInvalidArgument, std::string(text));
}

}  // namespace

Result<ForeignJob> find_foreign_job(const Lookup& given, bool several, int parent) {
  const std::string* const place = given("HORA_STORE");
  if (place && !place->starts_with(kTcp)) return ForeignJob();  // somebody else serves there
  ForeignJob found;
  std::string traits = traits_of(given, parent, found.origin);
  // All ranks were given the same place, but not the same parent.
  if (place && (traits.empty() || found.origin == "parent process")) {
    found.origin = "HORA_STORE";
    traits = *place;
  }
  if (traits.empty() && !several) return found;
  const uint64_t hash = hash_of(traits);
  found.job = fmt::format("{:08x}", hash >> 32);
  if (!several && !place) {
    found.store = fmt::format("unix:@hora-{}-{:016x}", ::geteuid(), hash);
    return found;
  }
  found.store = place ? *place : meeting_place(given, hash);
  if (found.store.empty())
    return lacking(
        "HORA_STORE is not set: give all ranks HORA_STORE=tcp://HOST:PORT, the host of rank 0 and "
        "a port that is free there");
  if (!given("HORA_SECRET"))
    return lacking(
        "HORA_SECRET is not set: ranks of several hosts prove by it that they belong together; "
        "give all the same one, such as 64 digits from `openssl rand -hex 32`");
  return found;
}

SlurmHosts find_slurm_hosts(const Lookup& given) {
  SlurmHosts hosts;
  hosts.count = std::max(number_of(given, "SLURM_STEP_NUM_NODES").value_or(1), 1);
  hosts.mine = number_of(given, "SLURM_NODEID").value_or(0);
  const std::string* const text = given("SLURM_STEP_TASKS_PER_NODE");  // "2(x3),1"
  for (std::string_view left = text ? *text : std::string_view(); !left.empty();) {
    const std::string_view item = left.substr(0, left.find(','));
    left.remove_prefix(std::min(item.size() + 1, left.size()));
    const size_t bracket = item.find("(x");
    const auto tasks = parse_integer(item.substr(0, bracket));
    const bool repeated = bracket != item.npos && item.ends_with(')');
    const auto times =
        repeated ? parse_integer(item.substr(bracket + 2, item.size() - bracket - 3)) : 1;
    if (!tasks || !times || *tasks > kMostHosts || *times > kMostHosts) break;
    hosts.tasks.insert(hosts.tasks.end(), *times, static_cast<int>(*tasks));
  }
  if (hosts.tasks.size() != static_cast<size_t>(hosts.count)) hosts.tasks.clear();
  return hosts;
}

std::string first_slurm_host(std::string_view list) {
  std::string name;
  bool inside = false, chosen = false;  // brackets; the first of what they list
  for (const char c : list) {
    if (c == ',' && !inside) break;
    if (c == '[' || c == ']') {
      inside = c == '[';
      chosen = false;
    } else if (inside && (c == ',' || c == '-')) {
      chosen = true;
    } else if (!chosen) {
      name.push_back(c);
    }
  }
  return name;
}

}  // namespace hora
