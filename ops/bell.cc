#include "ops/bell.h"

#include <unistd.h>

namespace hora {

void Bell::wake() const {
  if (armed_->exchange(0, std::memory_order_acq_rel) == 0) return;  // somebody else did
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd_, &one, sizeof(one));
}

void Bell::drain() const {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(eventfd_, &count, sizeof(count));
}

}  // namespace hora
