#include "launcher/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/quantity.h"

namespace hora {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<uint64_t> cores_of(std::string_view quota, std::string_view period) {
  const auto time = parse_integer(quota), every = parse_integer(period);  // "max" and "-1" are none
  if (!time || !every || *time == 0 || *every == 0) return {};
  return (*time + *every - 1) / *every;
}

std::optional<uint64_t> quota_v2(const std::string& folder) {
  const std::string line = first_line(folder + "/cpu.max");
  const size_t space = line.find(' ');
  if (space == line.npos) return {};
  return cores_of(std::string_view(line).substr(0, space),
                  std::string_view(line).substr(space + 1));
}

std::optional<uint64_t> quota_v1(const std::string& folder) {
  return cores_of(first_line(folder + "/cpu.cfs_quota_us"),
                  first_line(folder + "/cpu.cfs_period_us"));
}

/// The least quota of the group `path` under `mount` and of all groups around it. In a container
/// the path may be the host's, which does not exist here; the walk then ends at the container's own
/// root.
template <class Read>
void lower_to(uint64_t& cores, const std::string& mount, std::string path, Read read) {
  for (;;) {
    while (path.ends_with('/')) path.pop_back();
    if (const auto found = read(mount + path)) cores = std::min(cores, *found);
    if (path.empty()) return;
    path.resize(path.find_last_of('/') == path.npos ? 0 : path.find_last_of('/'));
  }
}

bool lists(std::string_view controllers, std::string_view wanted) {
  while (!controllers.empty()) {
    const size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == wanted) return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

int affinity_cores() {
  // The kernel refuses a mask shorter than its own.
  for (int bits = 1024; bits <= 1 << 20; bits *= 2) {
    std::vector<cpu_set_t> mask(static_cast<size_t>(bits) / (8 * sizeof(cpu_set_t)));
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(0, bytes, mask.data()) == 0) return CPU_COUNT_S(bytes, mask.data());
  }
  return 1;
}

}  // namespace

int quota_cores(const std::string& root) {
  constexpr uint64_t kNone = 1 << 20;
  uint64_t cores = kNone;
  std::ifstream groups(root + "/proc/self/cgroup");  // lines "4:cpu,cpuacct:/path", "0::/path"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1), mounts = root + "/sys/fs/cgroup";
    if (controllers.empty()) {
      lower_to(cores, mounts, path, quota_v2);
    } else if (lists(controllers, "cpu")) {
      lower_to(cores, mounts + "/cpu", path, quota_v1);
      lower_to(cores, mounts + "/cpu,cpuacct", path, quota_v1);
    }
  }
  return cores == kNone ? 0 : static_cast<int>(cores);
}

int allowed_cores(const std::string& root) {
  const int affinity = std::max(affinity_cores(), 1), quota = quota_cores(root);
  return quota > 0 ? std::min(affinity, quota) : affinity;
}

}  // namespace hora
