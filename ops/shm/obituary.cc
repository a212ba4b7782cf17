#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include <sys/ioctl.h>
#include <sys/wait.h>

#include "ops/shm/meeting.h"

namespace hora::shm {
namespace {

/// The kernel's struct pidfd_info (Linux 6.15), which older headers lack.
struct ProcessInfo {
  static constexpr uint64_t kExit = 8;
  uint64_t mask, cgroup;
  uint32_t ids[11];
  int32_t exit_code;
};
constexpr unsigned long kGetInfo = _IOWR(0xff, 11, ProcessInfo);

/// After its parent has collected it.
std::optional<int> code_from_pidfd(int process) {
  ProcessInfo info{};
  info.mask = ProcessInfo::kExit;
  if (::ioctl(process, kGetInfo, &info) != 0 || (info.mask & ProcessInfo::kExit) == 0) return {};
  return info.exit_code;
}

/// Before that: the last field of /proc/<pid>/stat, if the state is Z.
std::optional<int> code_from_proc(pid_t pid) {
  const Descriptor file(
      ::open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> buffer{};
  const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
  if (got <= 0) return {};
  std::string_view text(buffer.data(), static_cast<size_t>(got));
  const size_t name_end = text.rfind(") ");
  if (name_end == std::string_view::npos || text.substr(name_end + 2, 1) != "Z") return {};
  const size_t last = text.find_last_of(' ');
  int code = 0;
  for (const char c : text.substr(last + 1))
    if (c >= '0' && c <= '9') code = code * 10 + (c - '0');
  return code;
}

}  // namespace

std::string obituary(const Descriptor& process, pid_t pid) {
  const std::string who = "process " + std::to_string(pid);
  std::optional<int> code = code_from_pidfd(process.get());
  if (!code) code = code_from_proc(pid);
  if (!code) return who + " is gone";
  if (WIFSIGNALED(*code)) {
    const int signal = WTERMSIG(*code);
    const char* name = ::sigdescr_np(signal);
    return who + " was killed by signal " + std::to_string(signal) + " (" +
           (name ? name : "unknown") + ")";
  }
  const int status = WEXITSTATUS(*code);
  return who + " exited" + (status == 0 ? "" : " with code " + std::to_string(status));
}

}  // namespace hora::shm
