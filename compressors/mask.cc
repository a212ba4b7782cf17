// `mask`: one choice of elements for all ranks, so that payloads are sums and what travels does not
// grow with the ranks. Ranks take turns: whoever's turn it is chooses the `ratio` largest of its
// own, the others send what they have there.
//
//   first payload   i32 bad, i32 index[k], ascending: of whoever leads; others send zeros
//   second payload  f32 value[k]
//   bad = ranks that have a NaN or an Inf: the tensor is NaN everywhere
//
// The cyclic local top-k of ScaleCom, Chen et al., NeurIPS 2020. It rests on ranks' gradients being
// alike: what only another rank owes much of waits, and a learning rate that topk bears can be too
// high for it. The paper's low-pass filter of the memory, made for that, is not here.

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compressors/largest.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

class Mask final : public Codec {
 public:
  Mask(double ratio, Binding& binding)
      : Codec(binding.extent), ratio_(ratio), memory_(binding.memory) {}

  Traits traits() const override {
    return {.linear = true, .exact_values = !memory_.global, .conserves = memory_.conserves()};
  }
  size_t granule() const override { return whole_granule(extent()); }
  int rounds() const override { return 2; }
  DType wire(int round) const override { return round == 0 ? DType::kInt32 : DType::kFloat32; }
  size_t payload_bytes(size_t count) const override { return round_bytes(0, count, 1); }
  size_t round_bytes(int round, size_t count, int) const override {
    return count == 0 ? 0 : 4 * (kept(count) + (round == 0 ? 1 : 0));
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = memory_.slabs(count);
    slabs.push_back({"mask", count == 0 ? 0 : kept(count) + 1, Law::kScratch});
    return slabs;
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    Source source = source_of(turn, piece, state, memory_);
    std::memset(payload, 0, payload_bytes(piece.count));
    auto* words = reinterpret_cast<uint32_t*>(payload);
    if (!settle(source, piece.count)) {
      words[0] = 1;
      return;
    }
    if (leads(turn.step))
      choose_largest(turn.workspace, source, piece.count, kept(piece.count), 0, words + 1);
  }

  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    if (piece.count == 0) return;
    const size_t k = kept(piece.count);
    auto* mask = reinterpret_cast<uint32_t*>(state.find("mask"));
    std::memcpy(mask, outcome, 4 * (k + 1));
    if (!sound({mask + 1, k}, piece.count)) mask[0] = 1;
    auto* values = reinterpret_cast<float*>(payload);
    const float* residual = slab_at(state, "residual", piece);
    for (size_t j = 0; j < k; ++j) {
      const uint32_t i = mask[1 + j];
      if (mask[0] != 0)
        values[j] = 0;
      else
        values[j] = residual ? residual[i] : turn.input_scale * piece.input[i];
    }
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    if (outcome.size() != round_bytes(1, piece.count, 1)) {
      return Status(Code::kCorrupt, fmt::format("mask: {} bytes instead of {}", outcome.size(),
                                                round_bytes(1, piece.count, 1)));
    }
    if (piece.count == 0) return {};
    const auto* mask = reinterpret_cast<const uint32_t*>(state.find("mask"));
    const auto* values = reinterpret_cast<const float*>(outcome.data());
    if (mask[0] != 0) {
      for (size_t i = 0; i < piece.count; ++i) result[i] += float_of(kPoison);
      return {};
    }
    float* residual = slab_at(state, "residual", piece);
    for (size_t j = 0; j < kept(piece.count); ++j) {
      const uint32_t i = mask[1 + j];
      result[i] += scale * values[j];
      if (residual && is_finite(values[j]))
        residual[i] = memory_.global ? residual[i] - turn.mean * values[j] : 0;
    }
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "mask: a rank's payload means nothing alone");
  }

 private:
  size_t kept(size_t count) const {
    const auto wanted = static_cast<size_t>(std::ceil(ratio_ * static_cast<double>(count)));
    return std::clamp<size_t>(wanted, 1, count);
  }
  bool leads(const StepContext& step) const {
    const auto ranks = static_cast<uint64_t>(step.size);
    return (extent().id % ranks + step.step) % ranks == static_cast<uint64_t>(step.rank);
  }
  static bool sound(std::span<const uint32_t> indices, size_t count) {
    uint64_t next = 0;
    for (const uint32_t i : indices) {
      if (i < next || i >= count) return false;
      next = uint64_t{i} + 1;
    }
    return true;
  }

  const double ratio_;
  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const double ratio = keys.number("ratio", 1e-9, 1);
  if (binding.inner) keys.refuse("no quantizer can follow: values are added as they are");
  if (binding.code) keys.refuse("no index code can follow: all ranks send the same elements");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<Mask>(ratio, binding);
}

const RegisterStage mask(
    {.name = "mask",
     .order = Order::kSelect,
     .what = "elements that one rank chooses for all, in turns (ScaleCom, Chen et al. 2020)",
     .keys = {{"ratio", "0.01", "share of the elements that is sent"}},
     .make = make});

}  // namespace
}  // namespace hora
