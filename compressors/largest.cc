// A sample of the magnitudes says roughly where the threshold lies. One pass collects what is above
// a value a little lower; among these few the exact threshold is found. If the sample was
// misleading, a histogram of the leading magnitude bits takes its place.

#include "compressors/largest.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "compressors/sparse.h"

namespace hora {
namespace {

constexpr uint32_t kShift = 19, kBins = 1u << (31 - kShift);
constexpr size_t kLeastSample = 1024, kSample = 16384;

/// A magnitude that probably at least `most` of `count` elements reach, but not four times as many.
uint32_t sampled_floor(Workspace& workspace, const Source& source, size_t count, size_t most) {
  const size_t size = std::min(kSample, count / 16);
  if (size < kLeastSample) return 0;
  auto* sample = reinterpret_cast<uint32_t*>(
      workspace.memory(Workspace::kMagnitudes, size * sizeof(uint32_t)));
  const size_t stride = count / size;
  for (size_t i = 0; i < size; ++i) sample[i] = magnitude_bits(source[i * stride]);
  const double expected =
      static_cast<double>(most) / static_cast<double>(count) * static_cast<double>(size);
  const auto rank = static_cast<size_t>(expected + 4 * std::sqrt(expected) + 4);
  if (rank >= size) return 0;
  std::nth_element(sample, sample + rank, sample + size, std::greater<>());
  return sample[rank];
}

/// The lowest magnitude of the bin that holds the `most`-th largest, and how many reach it.
struct Cut {
  uint32_t floor = 0;
  size_t reached = 0;
};

Cut histogram_cut(const Source& source, size_t count, size_t most) {
  // Two tables, because neighbours often fall into one bin and would wait for each other's store.
  uint32_t histogram[2][kBins] = {};
  for (size_t i = 0; i < count; ++i) ++histogram[i % 2][magnitude_bits(source[i]) >> kShift];
  Cut cut;
  for (uint32_t bin = kBins; bin-- > 0 && cut.reached < most;) {
    cut.floor = bin << kShift;
    cut.reached += size_t{histogram[0][bin]} + histogram[1][bin];
  }
  return cut;
}

uint32_t* candidates(Workspace& workspace, size_t room) {
  return reinterpret_cast<uint32_t*>(
      workspace.memory(Workspace::kCandidates, (room + kScanSlack) * sizeof(uint32_t)));
}

/// Keeps the `most` largest of n > most candidates, in place.
void keep_largest(Workspace& workspace, const Source& source, size_t most, uint32_t* found,
                  size_t n) {
  auto* magnitudes =
      reinterpret_cast<uint32_t*>(workspace.memory(Workspace::kMagnitudes, n * sizeof(uint32_t)));
  for (size_t j = 0; j < n; ++j) magnitudes[j] = magnitude_bits(source[found[j]]);
  std::nth_element(magnitudes, magnitudes + (most - 1), magnitudes + n, std::greater<>());
  const uint32_t threshold = magnitudes[most - 1];
  size_t equal =
      most - static_cast<size_t>(std::count_if(magnitudes, magnitudes + most,
                                               [&](uint32_t m) { return m > threshold; }));
  size_t taken = 0;
  for (size_t j = 0; j < n; ++j) {
    const uint32_t magnitude = magnitude_bits(source[found[j]]);
    if (magnitude < threshold || (magnitude == threshold && equal == 0)) continue;
    if (magnitude == threshold) --equal;
    found[taken++] = found[j];
  }
  HORA_CHECK(taken == most, fmt::format("chose {} of {}", taken, most));
}

}  // namespace

size_t choose_largest(Workspace& workspace, Source& source, size_t count, size_t most,
                      uint32_t floor, uint32_t* chosen) {
  uint32_t guess = std::max(floor, sampled_floor(workspace, source, count, most));
  size_t room = std::min(count, 4 * most + 2 * kSample);
  uint32_t* found = candidates(workspace, room);
  const bool settles = source.residual && !source.is_settled() && surely_finite(source, count);
  const WalkKernels& walks = host_walks();
  Scanned scanned = walks.scan({source, count, guess, found, room, settles});
  if (settles) source = Source::settled(source.residual);
  if (scanned.poisoned) return Selector::kPoisoned;
  if (scanned.overflow || (scanned.found < most && guess > floor)) {
    const Cut cut = histogram_cut(source, count, most);
    guess = std::max(floor, cut.floor);
    room = cut.reached;
    found = candidates(workspace, room);
    scanned = walks.scan({source, count, guess, found, room, false});
    HORA_CHECK(!scanned.overflow, "more candidates than the histogram counted");
  }
  if (scanned.found > most) keep_largest(workspace, source, most, found, scanned.found);
  const size_t used = std::min(scanned.found, most);
  std::copy_n(found, used, chosen);
  return used;
}

}  // namespace hora
