#include "ops/shm/staging.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hora::shm {
namespace {

// Up to here streaming was never slower, near or far.
constexpr size_t kAlwaysStreamed = 512 << 10;

#if defined(__x86_64__)
constexpr bool kHasChoice = true;

void stream(std::byte* to, const std::byte* from, size_t bytes) {
  const size_t odd = reinterpret_cast<uintptr_t>(to) % 16;
  const size_t head = std::min(bytes, (16 - odd) % 16);
  std::memcpy(to, from, head);
  size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
    const auto* source = reinterpret_cast<const __m128i*>(from + i);
    auto* target = reinterpret_cast<__m128i*>(to + i);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  std::memcpy(to + i, from + i, bytes - i);
  _mm_sfence();  // streaming stores are not ordered by a later release
}
#else
constexpr bool kHasChoice = false;

void stream(std::byte* to, const std::byte* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace

uint64_t Staging::ticks() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return 0;
#endif
}

void Staging::copy(std::byte* to, const std::byte* from, size_t bytes, bool streams) {
  if (streams)
    stream(to, from, bytes);
  else
    std::memcpy(to, from, bytes);
}

uint64_t Staging::Class::best(size_t way) const {
  return *std::min_element(times[way].begin(), times[way].end());
}

bool Staging::streams(size_t bytes) {
  current_ = nullptr;
  if (!kHasChoice) return false;
  if (bytes <= kAlwaysStreamed) return true;
  current_ = &classes_[static_cast<size_t>(std::bit_width(bytes))];
  // Trials at the beginning, and then one of each way from time to time.
  const uint32_t number = current_->operations++;
  trial_ = number < kFirst || number % kPeriod < kWays;
  way_ = trial_ ? number % kWays : static_cast<size_t>(current_->best(1) < current_->best(0));
  return way_ == 1;
}

void Staging::took(uint64_t time) {
  if (!current_ || !trial_) return;
  auto& times = current_->times[way_];
  std::rotate(times.begin(), times.begin() + 1, times.end());
  times.back() = time;
}

}  // namespace hora::shm
