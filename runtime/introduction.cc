#include "runtime/introduction.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include <fmt/format.h>

#include "hora/request.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

std::string link_text(const char* path) {
  char text[256] = {};
  const ssize_t count = ::readlink(path, text, sizeof(text) - 1);
  return count > 0 ? std::string(text, static_cast<size_t>(count)) : std::string();
}

/// Ranks of one machine share memory unless they are kept apart: by a container's name, by a
/// network namespace (unix sockets without a file do not leave it), or by whoever started them and
/// says that they are on different hosts.
std::string machine(const Config& config) {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return fmt::format("{} {} {} {}", boot, link_text("/proc/self/ns/net"), host_name(),
                     config.cross_rank);
}

std::string_view take_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(text.size(), end + 1));
  return line;
}

Status compare(Rank theirs, std::string_view their_settings, Rank mine,
               std::string_view my_settings) {
  while (!their_settings.empty() || !my_settings.empty()) {
    const std::string_view a = take_line(my_settings), b = take_line(their_settings);
    if (a != b)
      return Status(Code::kMismatch,
                    fmt::format("rank {} has {}, rank {} has {}: this setting must be equal on all "
                                "ranks",
                                mine, a, theirs, b));
  }
  return {};
}

/// Six lines, and the settings that must be equal.
Introduction parse(std::string_view text, std::string_view& settings) {
  Introduction rank;
  rank.host = take_line(text);
  rank.pid = std::atoi(std::string(take_line(text)).c_str());
  rank.machine = take_line(text);
  rank.addresses = take_line(text);
  rank.speeds = take_line(text);
  rank.choices = take_line(text);
  settings = text;
  return rank;
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

Result<std::vector<Introduction>> introduce(Store& store, const Config& config,
                                            const std::string& prefix, const Clock& clock,
                                            const Introduction& mine) {
  const std::string my_settings = digest_text(config);
  HORA_TRY(
      store.set(prefix + std::to_string(config.rank),
                fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}", host_name(), ::getpid(), machine(config),
                            mine.addresses, mine.speeds, mine.choices, my_settings)));
  const Deadline deadline(
      clock, std::chrono::nanoseconds(static_cast<int64_t>(config.start_timeout * 1e9)));
  std::vector<Introduction> ranks;
  std::string missing;
  for (Rank rank = 0; rank < config.size; ++rank) {
    const auto left = std::max(milliseconds(deadline.poll_milliseconds()), milliseconds(1));
    auto got = store.get(prefix + std::to_string(rank), left);
    if (!got.ok() && got.status().code() == Code::kTimeout) {
      missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
      continue;
    }
    if (!got.ok()) return got.status();
    std::string_view settings;
    ranks.push_back(parse(got.value(), settings));
    HORA_TRY(compare(rank, settings, config.rank, my_settings));
  }
  if (missing.empty()) return ranks;
  return Status(Code::kTimeout,
                fmt::format("rank {}: waited {} s for ranks {} of {} to start (HORA_START_TIMEOUT)",
                            config.rank, config.start_timeout, missing, config.size));
}

std::vector<int> hosts_of(const std::vector<Introduction>& ranks) {
  std::map<std::string_view, int> numbers;
  std::vector<int> hosts;
  for (const Introduction& rank : ranks)
    hosts.push_back(
        numbers.try_emplace(rank.machine, static_cast<int>(numbers.size())).first->second);
  return hosts;
}

}  // namespace hora
