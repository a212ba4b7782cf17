#include "runtime/token.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>

#include <linux/futex.h>
#include <sys/syscall.h>

namespace hora {
namespace {

constexpr int64_t kShortest = 300'000, kLongest = 64'000'000;  ///< ns

}  // namespace

bool Token::sleep(int64_t nanoseconds) {
  const timespec timeout{0, static_cast<long>(nanoseconds)};
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&napping_), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1,
            &timeout, nullptr, 0);
  return napping_.load(std::memory_order_acquire) != 0;
}

void Token::nap() {
  uint32_t seen = visits_.load(std::memory_order_relaxed);
  int64_t length = kShortest;
  napping_.store(1, std::memory_order_seq_cst);
  while (sleep(length)) {
    const uint32_t now = visits_.load(std::memory_order_relaxed);
    if (now == seen && !wanted()) break;
    length = now == seen ? std::min(2 * length, kLongest) : kShortest;  // a long visit: sleep long
    seen = now;
  }
  napping_.store(0, std::memory_order_release);
}

void Token::poke() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (napping_.load(std::memory_order_relaxed) == 0) return;
  if (napping_.exchange(0, std::memory_order_acq_rel) == 0) return;
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&napping_), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1,
            nullptr, nullptr, 0);
}

}  // namespace hora
