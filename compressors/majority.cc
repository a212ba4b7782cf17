#include "compressors/majority.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace hora {
namespace {

constexpr size_t kWords = 32;  // counted side by side
constexpr size_t kPlanes = 32;

/// Counters of 64 x kWords bits: bit p of all of them is plane[p].
struct Count {
  uint64_t plane[kPlanes][kWords];
};

void add(const uint64_t* ballot, size_t planes, Count& count) {
  uint64_t carry[kWords];
  std::copy_n(ballot, kWords, carry);
  for (size_t p = 0; p < planes; ++p) {
    for (size_t k = 0; k < kWords; ++k) {
      const uint64_t both = count.plane[p][k] & carry[k];
      count.plane[p][k] ^= carry[k];
      carry[k] = both;
    }
  }
}

/// Where a counter is at least `enough`.
void compare(const Count& count, size_t planes, size_t enough, uint64_t* reached) {
  uint64_t equal[kWords];
  std::fill_n(equal, kWords, ~uint64_t{0});
  std::fill_n(reached, kWords, uint64_t{0});
  for (size_t p = planes; p-- > 0;) {
    const uint64_t wanted = (enough >> p & 1) != 0 ? ~uint64_t{0} : 0;
    for (size_t k = 0; k < kWords; ++k) {
      const uint64_t bit = count.plane[p][k];
      reached[k] |= equal[k] & bit & ~wanted;
      equal[k] &= ~(bit ^ wanted);
    }
  }
  for (size_t k = 0; k < kWords; ++k) reached[k] |= equal[k];
}

}  // namespace

void elect(const std::byte* ballots, size_t stride, size_t voters, size_t bytes,
           std::byte* winner) {
  const size_t planes = std::bit_width(voters), enough = (voters + 1) / 2;
  Count count;
  uint64_t words[kWords] = {};
  for (size_t at = 0; at < bytes; at += sizeof(words)) {
    const size_t here = std::min(bytes - at, sizeof(words));
    std::memset(count.plane, 0, planes * sizeof(count.plane[0]));
    for (size_t v = 0; v < voters; ++v) {
      std::memcpy(words, ballots + v * stride + at, here);
      add(words, planes, count);
    }
    compare(count, planes, enough, words);
    std::memcpy(winner + at, words, here);
  }
}

}  // namespace hora
