// `proportion`: one of `pi` positive and one of `pi` negative numbers, the outermost of each sign,
// at least one of each that there is; ties to the lower index.
//
// Dryden et al., "Communication Quantization for Data-Parallel Training of Deep Neural Networks",
// MLHPC 2016: adaptive quantization, with `quant:bits=1,recon=twomean`, whose two means are those
// of the numbers sent. The paper estimates thresholds for each column from a sample; here they are
// exact, and of the whole piece.

#include <algorithm>
#include <span>

#include "compressors/candidates.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

/// The outermost numbers of one sign.
struct Side {
  uint32_t sign;
  uint32_t floor = 1;  // no zero is sent
  size_t wanted = 0, found = 0;
  Last last = {};

  /// The magnitudes of this sign, one behind the other.
  std::span<uint32_t> magnitudes(Workspace& workspace, std::span<const float> numbers) const {
    auto* magnitudes = reinterpret_cast<uint32_t*>(
        workspace.memory(Workspace::kMagnitudes, (numbers.size() + 1) * sizeof(uint32_t)));
    size_t n = 0;
    for (const float number : numbers) {
      magnitudes[n] = magnitude_bits(number);
      n += bits_of(number) >> 31 == sign;
    }
    return {magnitudes, n};
  }
  void find_last(Workspace& workspace, std::span<const float> numbers) {
    const std::span<uint32_t> all = magnitudes(workspace, numbers);
    found = all.size();
    if (wanted > 0 && wanted <= found) last = last_of(all, wanted);
  }
};

class Proportion final : public Selector {
 public:
  explicit Proportion(size_t pi) : pi_(pi) {}
  size_t most(size_t count) const override { return std::min(count, count / pi_ + 2); }
  bool contractive() const override { return true; }

  size_t choose(Workspace& workspace, Source& source, size_t count,
                uint32_t* chosen) const override {
    Side sides[2] = {{0}, {1}};
    guess_floors(workspace, source, count, sides);
    Candidates candidates(workspace, usual_room(count, most(count)));
    const bool settles = source.residual && !source.is_settled() && surely_finite(source, count);
    Scanned scanned = collect(candidates, source, count, sides, settles);
    if (settles) source = Source::settled(source.residual);
    if (scanned.poisoned) return kPoisoned;
    sides[0].wanted = wanted(scanned.above);
    sides[1].wanted = wanted(scanned.below);
    if (scanned.overflow || !found_all(workspace, candidates, scanned, sides)) {
      candidates = Candidates(workspace, count_floors(source, count, sides));
      scanned = collect(candidates, source, count, sides, false);
      HORA_CHECK(!scanned.overflow && found_all(workspace, candidates, scanned, sides),
                 "fewer candidates than the histogram counted");
    }
    return keep_outermost(candidates, scanned.found, sides, chosen);
  }

 private:
  size_t wanted(size_t all) const { return all == 0 ? 0 : std::max<size_t>(1, all / pi_); }

  static Scanned collect(const Candidates& candidates, const Source& source, size_t count,
                         const Side (&sides)[2], bool settles) {
    return candidates.scan(source, count, sides[0].floor, sides[1].floor, settles);
  }

  void guess_floors(Workspace& workspace, const Source& source, size_t count,
                    Side (&sides)[2]) const {
    const std::span<const float> sample = take_sample(workspace, source, count);
    for (Side& side : sides) {
      const std::span<uint32_t> magnitudes = side.magnitudes(workspace, sample);
      side.floor = std::max(1u, sampled_floor(magnitudes, 1.0 / static_cast<double>(pi_)));
    }
  }

  /// Floors that all wanted reach; returns how many do.
  static size_t count_floors(const Source& source, size_t count, Side (&sides)[2]) {
    Histogram histograms[2];
    for (size_t i = 0; i < count; ++i) {
      const float p = source[i];
      histograms[bits_of(p) >> 31].add(i, magnitude_bits(p));
    }
    size_t reached = 0;
    for (Side& side : sides) {
      const Histogram::Cut cut = histograms[side.sign].cut(side.wanted);
      side.floor = std::max(1u, cut.floor);
      reached += cut.reached;
    }
    return reached;
  }

  /// False: of some sign there are fewer than are wanted.
  static bool found_all(Workspace& workspace, const Candidates& candidates, const Scanned& scanned,
                        Side (&sides)[2]) {
    for (Side& side : sides) side.find_last(workspace, {candidates.numbers, scanned.found});
    return sides[0].found >= sides[0].wanted && sides[1].found >= sides[1].wanted;
  }

  static size_t keep_outermost(const Candidates& candidates, size_t n, Side (&sides)[2],
                               uint32_t* chosen) {
    size_t used = 0;
    for (size_t j = 0; j < n; ++j) {
      const uint32_t bits = bits_of(candidates.numbers[j]);
      candidates.found[used] = candidates.found[j];
      used += sides[bits >> 31].last.takes(bits & 0x7FFFFFFFu);
    }
    std::copy_n(candidates.found, used, chosen);
    return used;
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
