#include "ops/shm/memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include <sys/mman.h>
#include <sys/resource.h>

namespace hora::shm {

Status failed(Code code, const std::string& what, int error) {
  return {code, "shm: " + what + ": " + std::generic_category().message(error)};
}

size_t round_up(size_t bytes, size_t granule) {
  return (bytes + granule - 1) / granule * granule;
}

size_t page_bytes() {
  return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

Result<std::shared_ptr<Mapping>> Mapping::map(int fd, size_t bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (address == MAP_FAILED)
    return failed(Code::kOutOfMemory, "map " + std::to_string(bytes) + " bytes", errno);
  ::madvise(address, bytes, MADV_DONTFORK);
  ::madvise(address, bytes, MADV_DONTDUMP);
  return std::make_shared<Mapping>(static_cast<std::byte*>(address), bytes);
}

Mapping::~Mapping() {
  if (data_) ::munmap(data_, bytes_);
}

Result<Descriptor> make_memory(const char* name) {
  Descriptor memory(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return failed(Code::kOutOfMemory, "create a memory file", errno);
  if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    return failed(Code::kUnavailable, "seal a memory file", errno);
  return memory;
}

Status reserve(const Descriptor& memory, size_t from, size_t to) {
  const std::string what = "reserve " + std::to_string(to - from) + " bytes of shared memory";
  rlimit limit{};  // past it the kernel sends SIGXFSZ instead of failing
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < to)
    return {Code::kOutOfMemory, "shm: " + what + ": above the limit on file sizes, " +
                                    std::to_string(limit.rlim_cur) +
                                    " bytes; raise it with ulimit -f"};
  const auto offset = static_cast<off_t>(from);
  const auto length = static_cast<off_t>(to - from);
  while (::fallocate(memory.get(), 0, offset, length) != 0)
    if (errno != EINTR) return failed(Code::kOutOfMemory, what, errno);
  return {};
}

}  // namespace hora::shm
