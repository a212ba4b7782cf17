#include "compressors/largest.h"

#include <algorithm>

#include <fmt/format.h>

#include "compressors/candidates.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

uint32_t* magnitudes_of(Workspace& workspace, std::span<const float> numbers) {
  auto* magnitudes = reinterpret_cast<uint32_t*>(
      workspace.memory(Workspace::kMagnitudes, numbers.size() * sizeof(uint32_t)));
  for (size_t j = 0; j < numbers.size(); ++j) magnitudes[j] = magnitude_bits(numbers[j]);
  return magnitudes;
}

uint32_t guess_floor(Workspace& workspace, const Source& source, size_t count, size_t most) {
  const std::span<const float> sample = take_sample(workspace, source, count);
  return sampled_floor({magnitudes_of(workspace, sample), sample.size()},
                       static_cast<double>(most) / static_cast<double>(count));
}

/// Keeps the `most` largest of n > most candidates, in place.
void keep_largest(Workspace& workspace, const Candidates& candidates, size_t most, size_t n) {
  Last last = last_of({magnitudes_of(workspace, {candidates.numbers, n}), n}, most);
  size_t taken = 0;
  for (size_t j = 0; j < n; ++j) {
    candidates.found[taken] = candidates.found[j];
    taken += last.takes(magnitude_bits(candidates.numbers[j]));
  }
  HORA_CHECK(taken == most, fmt::format("chose {} of {}", taken, most));
}

}  // namespace

size_t choose_largest(Workspace& workspace, Source& source, size_t count, size_t most,
                      uint32_t floor, uint32_t* chosen) {
  uint32_t guess = std::max(floor, guess_floor(workspace, source, count, most));
  Candidates candidates(workspace, usual_room(count, most));
  const bool settles = source.residual && !source.is_settled() && surely_finite(source, count);
  Scanned scanned = candidates.scan(source, count, guess, guess, settles);
  if (settles) source = Source::settled(source.residual);
  if (scanned.poisoned) return Selector::kPoisoned;
  if (scanned.overflow || (scanned.found < most && guess > floor)) {
    Histogram histogram;
    for (size_t i = 0; i < count; ++i) histogram.add(i, magnitude_bits(source[i]));
    const Histogram::Cut cut = histogram.cut(most);
    guess = std::max(floor, cut.floor);
    candidates = Candidates(workspace, cut.reached);
    scanned = candidates.scan(source, count, guess, guess, false);
    HORA_CHECK(!scanned.overflow, "more candidates than the histogram counted");
  }
  if (scanned.found > most) keep_largest(workspace, candidates, most, scanned.found);
  const size_t used = std::min(scanned.found, most);
  std::copy_n(candidates.found, used, chosen);
  return used;
}

}  // namespace hora
