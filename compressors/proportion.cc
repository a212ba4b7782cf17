// `proportion`: one of `pi` positive and one of `pi` negative numbers, the outermost of each sign,
// at least one of each that there is; ties to the lower index.
//
// Dryden et al., "Communication Quantization for Data-Parallel Training of Deep Neural Networks",
// MLHPC 2016: adaptive quantization, with `quant:bits=1,recon=twomean`, whose two means are those
// of the numbers sent. The paper estimates thresholds for each column from a sample; here they are
// exact, and of the whole piece.

#include <algorithm>
#include <functional>
#include <span>

#include "compressors/largest.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

constexpr uint32_t kShift = 19, kBins = 1u << (31 - kShift);

/// The outermost numbers of one sign.
struct Side {
  uint32_t histogram[kBins] = {};
  size_t wanted = 0, equal = 0;
  uint32_t floor = 0x7F800000u;  // the lowest magnitude of the bin with the last one wanted
  uint32_t threshold = ~0u;      // the magnitude of the last one; so many of `equal` are taken

  size_t from(uint32_t lowest) const {
    size_t all = 0;
    for (uint32_t bin = lowest >> kShift; bin < kBins; ++bin) all += histogram[bin];
    return all;
  }
  void find_floor(size_t pi) {
    const size_t all = from(0);
    wanted = all == 0 ? 0 : std::max<size_t>(1, all / pi);
    size_t reached = 0;
    for (uint32_t bin = kBins; bin-- > 0 && reached < wanted;) {
      floor = bin << kShift;
      reached += histogram[bin];
    }
  }
  void find_threshold(const Source& source, uint32_t sign, std::span<const uint32_t> found,
                      uint32_t* magnitudes) {
    if (wanted == 0) return;
    size_t n = 0;
    for (const uint32_t i : found) {
      const uint32_t bits = bits_of(source[i]);
      magnitudes[n] = bits & 0x7FFFFFFFu;
      n += bits >> 31 == sign;
    }
    uint32_t* const last = magnitudes + (wanted - 1);
    std::nth_element(magnitudes, last, magnitudes + n, std::greater<>());
    threshold = *last;
    const auto above = std::count_if(magnitudes, last, [&](uint32_t m) { return m > threshold; });
    equal = wanted - static_cast<size_t>(above);
  }
  bool takes(uint32_t magnitude) {
    if (magnitude != threshold) return magnitude > threshold;
    if (equal == 0) return false;
    --equal;
    return true;
  }
};

class Proportion final : public Selector {
 public:
  explicit Proportion(size_t pi) : pi_(pi) {}
  size_t most(size_t count) const override { return std::min(count, count / pi_ + 2); }

  size_t choose(Workspace& workspace, Source& source, size_t count,
                uint32_t* chosen) const override {
    if (!settle(source, count)) return kPoisoned;
    Side sides[2];  // above, below
    for (size_t i = 0; i < count; ++i) {
      const float p = source[i];
      ++sides[bits_of(p) >> 31].histogram[magnitude_bits(p) >> kShift];
    }
    remove_zeros(source, count, sides);
    for (Side& side : sides) side.find_floor(pi_);
    // Everything that either sign might send; the other sign's share of it is dropped below.
    const uint32_t floor = std::max(1u, std::min(sides[0].floor, sides[1].floor));
    size_t room = 0;
    for (const Side& side : sides) room += side.from(floor);
    auto* found = reinterpret_cast<uint32_t*>(
        workspace.memory(Workspace::kCandidates, (room + kScanSlack) * sizeof(uint32_t)));
    const Scanned scanned = host_walks().scan({source, count, floor, found, room, false});
    auto* magnitudes = reinterpret_cast<uint32_t*>(
        workspace.memory(Workspace::kMagnitudes, (room + 1) * sizeof(uint32_t)));
    for (uint32_t s = 0; s < 2; ++s)
      sides[s].find_threshold(source, s, {found, scanned.found}, magnitudes);
    size_t used = 0;
    for (const uint32_t i : std::span(found, scanned.found)) {
      const float p = source[i];
      if (sides[bits_of(p) >> 31].takes(magnitude_bits(p))) chosen[used++] = i;
    }
    return used;
  }
  bool contractive() const override { return true; }

 private:
  /// A zero is of no sign.
  static void remove_zeros(const Source& source, size_t count, Side (&sides)[2]) {
    if (sides[0].histogram[0] + sides[1].histogram[0] == 0) return;
    for (size_t i = 0; i < count; ++i) {
      const float p = source[i];
      if (p == 0) --sides[bits_of(p) >> 31].histogram[0];
    }
  }

  const size_t pi_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const size_t pi = keys.count("pi", 1, size_t{1} << 30);
  if (!keys.refused().empty()) return nullptr;
  return make_sparse(std::make_unique<Proportion>(pi), binding);
}

const RegisterStage proportion({.name = "proportion",
                                .order = Order::kSelect,
                                .what = "the outermost of either sign (Dryden et al. 2016)",
                                .keys = {{"pi", "64", "one of so many is sent"}},
                                .make = make});

}  // namespace
}  // namespace hora
