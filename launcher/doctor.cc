#include "launcher/doctor.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "hora/config.h"
#include "launcher/cores.h"
#include "ops/descriptor.h"
#include "runtime/quantity.h"

namespace hora {
namespace {

std::string gibibytes(uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30);
}

std::string memory_line() {
  std::ifstream file("/proc/meminfo");
  uint64_t total = 0, available = 0;
  for (std::string name, unit, line; std::getline(file, line);) {
    unsigned long long kibibytes = 0;
    if (std::sscanf(line.c_str(), "MemTotal: %llu", &kibibytes) == 1) total = kibibytes * 1024;
    if (std::sscanf(line.c_str(), "MemAvailable: %llu", &kibibytes) == 1)
      available = kibibytes * 1024;
  }
  return fmt::format("{}, {} available", gibibytes(total), gibibytes(available));
}

std::string shm_line() {
  struct statvfs info {};
  if (::statvfs("/dev/shm", &info) != 0)
    return fmt::format("none ({}); not needed", std::strerror(errno));
  const uint64_t block = info.f_frsize;
  return fmt::format("{}, {} free; Hora does not use it, data loaders do",
                     gibibytes(block * info.f_blocks), gibibytes(block * info.f_bavail));
}

std::string memlock_line() {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : format_bytes(limit.rlim_cur);
}

std::string isa_line() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
#endif
  return "base";
}

std::string shm_backend_line() {
  const Descriptor memory(::memfd_create("hora-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return fmt::format("no: memfd_create: {}", std::strerror(errno));
  if (const int error = ::posix_fallocate(memory.get(), 0, 1 << 20))
    return fmt::format("no: cannot reserve shared memory: {}", std::strerror(error));
  return "yes";
}

std::string settings_line() {
  const Result<Config> config = Config::from_environment();
  return config.ok() ? "ok (see `hora config`)" : config.status().message();
}

std::string pidfd_line() {
  const Descriptor self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  return self.valid() ? "yes"
                      : fmt::format("no: {}; deaths are noticed by sockets", std::strerror(errno));
}

}  // namespace

/// Plug-ins lie beside the program, in ../lib beside it, or where the dynamic linker looks.
std::string plugin_line(const std::string& file) {
  std::error_code error;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  std::string why = "not found";
  std::vector<std::filesystem::path> places{folder / file, folder / "../lib" / file};
  // Where pip puts it: beside the Python package that belongs to this program.
  for (const auto& python : std::filesystem::directory_iterator(folder / "../lib", error))
    places.push_back(python.path() / "site-packages" / "hora" / file);
  places.emplace_back(file);
  for (const std::filesystem::path& path : places) {
    const bool by_name = !path.has_parent_path();
    if (!by_name && !std::filesystem::exists(path, error)) continue;
    if (void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      ::dlclose(handle);
      return fmt::format("yes, {}", path.lexically_normal().string());
    }
    if (!by_name || why == "not found") why = ::dlerror();
    if (!by_name) break;  // it is there but does not load: that is the answer
  }
  return "no: " + why;
}

std::vector<std::string> lacks_here() {
  constexpr rlim_t kFewFiles = 1024;
  std::vector<std::string> lacks;
  if (const std::string shared = shm_backend_line(); shared != "yes")
    lacks.push_back("shared memory: " + shared +
                    "; raise the memory limit of its container, and "
                    "let it call memfd_create");
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < kFewFiles)
    lacks.push_back(
        fmt::format("only {} open files: ulimit -n {} or more there, in what logins read",
                    files.rlim_cur, kFewFiles));
  return lacks;
}

std::string doctor_page() {
  utsname system{};
  ::uname(&system);
  const int quota = quota_cores("");
  const std::string cores = fmt::format("{} usable, {} in the machine{}", allowed_cores(),
                                        std::thread::hardware_concurrency(),
                                        quota > 0 ? fmt::format(", quota of {}", quota) : "");
  const std::pair<const char*, std::string> rows[] = {
      {"hora", fmt::format("{}, built with {}", HORA_VERSION, HORA_COMPILER)},
      {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
      {"cores", cores},
      {"instructions", isa_line()},
      {"memory", memory_line()},
      {"/dev/shm", shm_line()},
      {"locked memory", memlock_line()},
      {"pidfd", pidfd_line()},
      {"backend shm", shm_backend_line()},
      {"backend gloo", plugin_line("libhora_gloo.so")},
      {"settings", settings_line()},
  };
  std::string page;
  for (const auto& [name, text] : rows) page += fmt::format("{:<14} {}\n", name, text);
  return page;
}

}  // namespace hora
