#include "compressors/half_memory.h"

#include "compressors/around.h"
#include "compressors/convert.h"
#include "compressors/walks.h"

namespace hora {
namespace {

/// A piece's residual as floats, for as long as this lives.
class Loan {
 public:
  Loan(const Turn& turn, const Piece& piece, uint64_t tensor, State& state)
      : turn_(turn), piece_(piece), tensor_(tensor), slab_(state.slab("residual")) {
    if (!slab_ || slab_->halves.empty()) {
      slab_ = nullptr;
      return;
    }
    halves_ = slab_->halves.data() + (piece.first - state.first);
    slab_->lent = turn.workspace.floats(Workspace::kHalves, piece.count + 1);
    slab_->lent_first = piece.first;
    widen(DType::kBFloat16, reinterpret_cast<const std::byte*>(halves_), slab_->lent, piece.count);
  }
  ~Loan() {
    if (!slab_) return;
    constexpr uint64_t kRounding = uint64_t{1} << 33;  // no quantizer's drawer
    const Key key = make_key(turn_.step.seed, turn_.step.step, tensor_, turn_.drawer ^ kRounding);
    host_walks().round_halves(slab_->lent, piece_.count, key, piece_.first, halves_);
    slab_->lent = nullptr;
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

 private:
  const Turn& turn_;
  const Piece& piece_;
  const uint64_t tensor_;
  State::Slab* slab_;
  uint16_t* halves_ = nullptr;
};

class HalfMemory final : public Around {
 public:
  using Around::Around;

  Traits traits() const override {
    Traits traits = inner().traits();
    traits.conserves = traits.exact_values = false;
    return traits;
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = inner().slabs(count);
    for (SlabSpec& slab : slabs) slab.half = slab.half || slab.name == "residual";
    return slabs;
  }
  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    const Loan loan(turn, piece, extent().id, state);
    inner().encode(turn, piece, state, payload);
  }
  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    const Loan loan(turn, piece, extent().id, state);
    inner().next(turn, piece, state, outcome, payload);
  }
  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    const Loan loan(turn, piece, extent().id, state);
    return inner().finish(turn, piece, state, outcome, result, scale);
  }
  void take_back(const Turn& turn, const Piece& piece, State& state,
                 std::span<const std::byte> payload, const float* result) const override {
    const Loan loan(turn, piece, extent().id, state);
    inner().take_back(turn, piece, state, payload, result);
  }
};

}  // namespace

std::unique_ptr<Codec> keep_halves(std::unique_ptr<Codec> inner) {
  return std::make_unique<HalfMemory>(std::move(inner));
}

}  // namespace hora
