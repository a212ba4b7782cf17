#include "compressors/candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace hora {
namespace {

constexpr size_t kLeastSample = 1024, kSample = 16384;

}  // namespace

Candidates::Candidates(Workspace& workspace, size_t candidates) : room(candidates) {
  // Both parts begin at whole vectors.
  const size_t each = (room + kScanSlack + 15) / 16 * 16;
  numbers = workspace.floats(Workspace::kCandidates, 2 * each);
  found = reinterpret_cast<uint32_t*>(numbers + each);
}

size_t usual_room(size_t count, size_t most) {
  return std::min(count, 4 * most + 2 * kSample);
}

std::span<float> take_sample(Workspace& workspace, const Source& source, size_t count) {
  const size_t size = std::min(kSample, count / 16);
  if (size < kLeastSample) return {};
  float* sample = workspace.floats(Workspace::kCandidates, size);
  const size_t stride = count / size;
  for (size_t i = 0; i < size; ++i) sample[i] = source[i * stride];
  return {sample, size};
}

uint32_t sampled_floor(std::span<uint32_t> sample, double share) {
  const double expected = share * static_cast<double>(sample.size());
  const auto rank = static_cast<size_t>(expected + 4 * std::sqrt(expected) + 4);
  return rank < sample.size() ? last_of(sample, rank + 1).magnitude : 0;
}

Histogram::Cut Histogram::cut(size_t nth) const {
  Cut cut;
  for (uint32_t bin = kBins; bin-- > 0 && cut.reached < nth;) {
    cut.inside = size_t{bins_[0][bin]} + bins_[1][bin];
    cut.floor = bin << kShift;
    cut.reached += cut.inside;
  }
  return cut;
}

Last last_of(std::span<uint32_t> magnitudes, size_t n) {
  constexpr size_t kFew = 256;  // are sorted sooner than a histogram is cleared
  size_t left = magnitudes.size();
  if (left > kFew) {
    Histogram histogram;
    for (size_t i = 0; i < magnitudes.size(); ++i) histogram.add(i, magnitudes[i]);
    const Histogram::Cut cut = histogram.cut(n);
    n -= cut.reached - cut.inside;
    left = 0;
    for (const uint32_t m : magnitudes) {
      magnitudes[left] = m;
      left += Histogram::together(m, cut.floor);
    }
  }
  const auto begin = magnitudes.begin(), last = begin + static_cast<std::ptrdiff_t>(n - 1);
  std::nth_element(begin, last, begin + static_cast<std::ptrdiff_t>(left), std::greater<>());
  const auto above = std::count_if(begin, last, [&](uint32_t m) { return m > *last; });
  return {*last, n - static_cast<size_t>(above)};
}

}  // namespace hora
