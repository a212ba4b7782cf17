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
    Source source = source_of(turn, piece, state, memory_);
    auto* p = reinterpret_cast<float*>(payload);
    const bool unsettled = source.residual && !source.is_settled();
    const bool settles = unsettled && surely_finite(source, piece.count);
    if (!settles && !settle(source, piece.count)) {
      std::fill_n(p, n_ * rank_, float_of(kPoison));
      return;
    }
    float* q = state.find("q");
    if (all_zero(q, m_ * rank_)) {  // the first step: the same draw on every rank
      constexpr uint64_t kShared = uint64_t{1} << 32;
      const Key key = make_key(turn.step.seed, 0, extent().id, kShared);
      for (size_t i = 0; i < m_ * rank_; ++i)
        q[i] = unit_interval(random_bits(key, static_cast<uint32_t>(i))) - 0.5f;
    }
    const VectorKernels& vectors = host_vectors();
    float* sums = turn.workspace.floats(Workspace::kValues, kTileRows * rank_ * kSide);
    for_each_tile([&](size_t i, size_t rows, size_t c, size_t width) {
      if (c == 0) std::fill_n(sums, rows * rank_ * kSide, 0.0f);
      const Tile tile = tile_of(turn, source, i * m_ + c, rows, width, settles);
      for (size_t r = 0; r < rows; ++r)
        vectors.add_products(tile.row(r), q + c, m_, rank_, width, sums + r * rank_ * kSide);
      if (c + width < m_) return;
      for (size_t j = 0; j < rows * rank_; ++j)
        p[j % rank_ * n_ + i + j / rank_] = join(sums + j * kSide);
    });
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
    const float* residual = slab_at(state, "residual", piece);
    const Source source = residual ? Source{residual} : source_of(turn, piece, state, memory_);
    const VectorKernels& vectors = host_vectors();
    for_each_tile([&](size_t i, size_t rows, size_t c, size_t width) {
      const Tile tile = tile_of(turn, source, i * m_ + c, rows, width, false);
      for (size_t k = 0; k < rank_; ++k)
        vectors.add_rows(p + k * n_ + i, tile.at, tile.stride, rows, width, q + k * m_ + c);
    });
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
    const VectorKernels& vectors = host_vectors();
    float* scales = turn.workspace.floats(Workspace::kValues, 2 * rank_);
    for_each_tile([&](size_t i, size_t rows, size_t c, size_t width) {
      for (size_t row = i; row < i + rows; ++row) {
        for (size_t k = 0; k < rank_; ++k) {
          scales[k] = scale * p[k * n_ + row];
          scales[rank_ + k] = -share * p[k * n_ + row];
        }
        const size_t at = row * m_ + c;
        vectors.add_rows(scales, q + c, m_, rank_, width, result + at);
        if (residual) vectors.add_rows(scales + rank_, taken + c, m_, rank_, width, residual + at);
      }
    });
    std::memcpy(state.find("q"), q, m_ * rank_ * sizeof(float));
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "lowrank: a rank's payload means nothing alone");
  }

 private:
  /// A few rows of M, in part: while they are near, all columns of a factor meet them. The part is
  /// as long as a factor's share of a cache allows, for memory is quickest along a row.
  static constexpr size_t kTileRows = 4;
  size_t tile_columns() const { return std::max<size_t>(65536 / rank_ / kSide * kSide, 1024); }
  struct Tile {
    const float* at;
    size_t stride;
    const float* row(size_t r) const { return at + r * stride; }
  };

  template <class Visit>
  void for_each_tile(Visit visit) const {
    const size_t columns = tile_columns();
    for (size_t i = 0; i < n_; i += kTileRows) {
      for (size_t c = 0; c < m_; c += columns)
        visit(i, std::min(kTileRows, n_ - i), c, std::min(columns, m_ - c));
    }
  }

  /// The numbers from element `begin` on; `settles` writes them to the residual.
  Tile tile_of(const Turn& turn, const Source& source, size_t begin, size_t rows, size_t width,
               bool settles) const {
    if (source.residual && !settles) return {source.residual + begin, m_};
    if (!source.residual && source.input_scale == 1) return {source.input + begin, m_};
    const size_t stride = settles ? m_ : width;
    float* to = settles ? source.residual + begin
                        : turn.workspace.floats(Workspace::kTransform, rows * width);
    for (size_t r = 0; r < rows; ++r) read(source.from(begin + r * m_), width, to + r * stride);
    return {to, stride};
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
