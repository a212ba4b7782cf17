// `lowrank`: a matrix M of n rows and m columns as P Q', with `rank` columns each. One power
// iteration a step, which starts where the last one ended. Both factors are sums over ranks, so the
// exchange is two allreduces: P = M Q, made orthonormal by everybody alike, then Q = M' P.
//
//   payloads: f32 P[rank][n], f32 Q[rank][m]
//
// Vogels et al., "PowerSGD", NeurIPS 2019. The memory is taken against this rank's own part of the
// reconstruction, P (M' P)', as the authors' library does; over ranks these parts add up to the
// whole. A vector is a matrix of one row, which is sent exactly: give it another chain by a rule.

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stage.h"
#include "compressors/vectors.h"

namespace hora {
namespace {

class LowRank final : public Codec {
 public:
  LowRank(size_t rank, Binding& binding)
      : Codec(binding.extent),
        n_(binding.extent.rows),
        m_(binding.extent.columns),
        rank_(std::min({rank, n_, m_})),
        memory_(binding.memory) {}

  Traits traits() const override {
    return {.linear = true, .conserves = memory_.conserves(), .draws = Draws::kShared};
  }
  size_t granule() const override { return whole_granule(extent()); }
  DType wire(int) const override { return DType::kFloat32; }
  int rounds() const override { return 2; }
  size_t payload_bytes(size_t count) const override { return round_bytes(0, count, 1); }
  size_t round_bytes(int round, size_t count, int) const override {
    return count == 0 ? 0 : (round == 0 ? n_ : m_) * rank_ * sizeof(float);
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = memory_.slabs(count);
    slabs.push_back({"q", m_ * rank_, Law::kReplicated});
    slabs.push_back({"p", n_ * rank_, Law::kScratch});
    slabs.push_back({"own_q", m_ * rank_, Law::kScratch});
    return slabs;
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    const Source source = source_of(turn, piece, state, memory_);
    auto* p = reinterpret_cast<float*>(payload);
    if (poisoned(source, piece.count)) {
      std::fill_n(p, n_ * rank_, float_of(kPoison));
      return;
    }
    if (source.residual && !turn.held) read(source, piece.count, source.residual);
    float* q = state.find("q");
    if (all_zero(q, m_ * rank_)) {  // the first step: the same draw on every rank
      constexpr uint64_t kShared = uint64_t{1} << 32;
      const Key key = make_key(turn.step.seed, 0, extent().id, kShared);
      for (size_t i = 0; i < m_ * rank_; ++i)
        q[i] = unit_interval(random_bits(key, static_cast<uint32_t>(i))) - 0.5f;
    }
    for (size_t i = 0; i < n_; ++i) {
      const float* row = row_of(turn, piece, state, i);
      for (size_t k = 0; k < rank_; ++k) p[k * n_ + i] = dot(row, q + k * m_, m_);
    }
  }

  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    if (piece.count == 0) return;
    float *p = state.find("p"), *own = state.find("own_q");
    std::memcpy(p, outcome, n_ * rank_ * sizeof(float));
    auto* q = reinterpret_cast<float*>(payload);
    if (poisoned({p}, n_ * rank_)) {
      std::fill_n(q, m_ * rank_, float_of(kPoison));
      return;
    }
    orthonormalize(p, rank_, n_);
    std::fill_n(q, m_ * rank_, 0.0f);
    for (size_t i = 0; i < n_; ++i) {
      const float* row = row_of(turn, piece, state, i);
      for (size_t k = 0; k < rank_; ++k) add_scaled(p[k * n_ + i], row, m_, q + k * m_);
    }
    std::memcpy(own, q, m_ * rank_ * sizeof(float));
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    if (outcome.size() != round_bytes(1, piece.count, 1)) {
      return Status(Code::kCorrupt, fmt::format("lowrank: {} bytes instead of {}", outcome.size(),
                                                round_bytes(1, piece.count, 1)));
    }
    if (piece.count == 0) return {};
    const auto* q = reinterpret_cast<const float*>(outcome.data());
    if (poisoned({q}, m_ * rank_)) {
      for (size_t i = 0; i < piece.count; ++i) result[i] += float_of(kPoison);
      return {};
    }
    const float *p = state.find("p"), *taken = memory_.global ? q : state.find("own_q");
    const float share = memory_.global ? turn.mean : 1.0f;
    float* residual = slab_at(state, "residual", piece);
    for (size_t i = 0; i < n_; ++i) {
      for (size_t k = 0; k < rank_; ++k) {
        add_scaled(scale * p[k * n_ + i], q + k * m_, m_, result + i * m_);
        if (residual) add_scaled(-share * p[k * n_ + i], taken + k * m_, m_, residual + i * m_);
      }
    }
    std::memcpy(state.find("q"), q, m_ * rank_ * sizeof(float));
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "lowrank: a rank's payload means nothing alone");
  }

 private:
  /// What row i of M is once encode() has settled the memory.
  const float* row_of(const Turn& turn, const Piece& piece, State& state, size_t i) const {
    if (const float* residual = slab_at(state, "residual", piece)) return residual + i * m_;
    const float* row = piece.input + i * m_;
    if (turn.input_scale == 1) return row;
    float* scaled = turn.workspace.floats(Workspace::kTransform, m_);
    read({row, nullptr, turn.input_scale, 0}, m_, scaled);
    return scaled;
  }

  const size_t n_, m_, rank_;
  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const size_t rank = keys.count("rank", 1, 1024);
  if (binding.inner) keys.refuse("no quantizer can follow: its factors are added as they are");
  if (binding.code) keys.refuse("no index code can follow: it has no indices");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<LowRank>(rank, binding);
}

const RegisterStage lowrank({.name = "lowrank",
                             .order = Order::kSelect,
                             .what = "two thin factors of a matrix (PowerSGD, Vogels et al. 2019)",
                             .keys = {{"rank", "2", "columns of each factor"}},
                             .make = make});

}  // namespace
}  // namespace hora
