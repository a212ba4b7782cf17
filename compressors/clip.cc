// `clip`: the gradient is made smaller before anything remembers it. With `norm` a tensor whose
// Euclidean norm is larger is scaled down to it; `scale=rsqrtN` divides the norm by the root of the
// number of ranks (Lin et al. 2018: independent noise of N ranks adds up to a root of N). With
// `sigma` elements are cut off at so many standard deviations, mean 0 assumed as TernGrad does (Wen
// et al. 2017). What is clipped is gone: no memory keeps it.
//
// A norm is that of one tensor; the papers' is that of the whole model. Sums are taken in a fixed
// order. An owner's second encoding is not clipped.

#include <cmath>

#include "compressors/around.h"
#include "compressors/stage.h"
#include "compressors/walks.h"

namespace hora {
namespace {

class Clip final : public Around {
 public:
  Clip(double norm, double sigma, bool share, std::unique_ptr<Codec> inner)
      : Around(std::move(inner)), norm_(norm), sigma_(sigma), share_(share) {}

  Traits traits() const override {
    Traits traits = inner().traits();
    traits.unbiased = traits.conserves = false;
    return traits;
  }
  size_t granule() const override { return whole_granule(extent()); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    clipped(turn, piece,
            [&](const Turn& then, const Piece& cut) { inner().encode(then, cut, state, payload); });
  }
  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    clipped(turn, piece, [&](const Turn& then, const Piece& cut) {
      inner().next(then, cut, state, outcome, payload);
    });
  }

 private:
  /// Calls then(turn, piece) for what is left of the gradient.
  template <class Then>
  void clipped(const Turn& turn, const Piece& piece, Then then) const {
    const bool second = turn.drawer == static_cast<uint64_t>(Drawer::kOwner);
    if (second || piece.count == 0) return then(turn, piece);
    const WalkKernels& walks = host_walks();
    const double squares = walks.squares(piece.input, piece.count, turn.input_scale);
    Turn less = turn;
    if (norm_ > 0) {
      const double limit = share_ ? norm_ / std::sqrt(turn.step.size) : norm_;
      const double norm = std::sqrt(squares);
      // A norm that is no number leaves the gradient as it is: its blocks will be poisoned.
      if (norm > limit && std::isfinite(norm)) less.input_scale *= static_cast<float>(limit / norm);
      return then(less, piece);
    }
    const double deviation = std::sqrt(squares / static_cast<double>(piece.count));
    const auto limit = static_cast<float>(sigma_ * deviation);
    if (!is_finite(limit)) return then(turn, piece);
    float* cut = turn.workspace.floats(Workspace::kClip, piece.count);
    walks.clamp(piece.input, piece.count, turn.input_scale, limit, cut);
    less.input_scale = 1;
    then(less, Piece{cut, piece.first, piece.count});
  }

  const double norm_, sigma_;
  const bool share_;
};

std::unique_ptr<Codec> around(Keys& keys, std::unique_ptr<Codec> inner) {
  const double norm = keys.number("norm", 0, 1e30), sigma = keys.number("sigma", 0, 1e6);
  const bool share = keys.choice("scale", {"one", "rsqrtN"}) == "rsqrtN";
  if ((norm > 0) == (sigma > 0)) keys.refuse("give norm= or sigma=, above 0, and not both");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<Clip>(norm, sigma, share, std::move(inner));
}

const RegisterStage clip(
    {.name = "clip",
     .order = Order::kPrepare,
     .what = "makes the gradient smaller (norm: Lin et al. 2018; sigma: Wen et al. 2017)",
     .keys = {{"norm", "0", "the largest Euclidean norm of a tensor"},
              {"scale", "one", "one, or rsqrtN: norm / sqrt(ranks)"},
              {"sigma", "0", "the largest magnitude, in standard deviations"}},
     .around = around});

}  // namespace
}  // namespace hora
