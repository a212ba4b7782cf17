// `basis`: runs of `slice` elements as `rank` coordinates in a basis that all ranks have learned
// from the gradient they last saw whole. Coordinates are sums over ranks, so one allreduce is all.
// Every `refresh` exchanges the gradient travels as it is, and its slices' principal directions
// become the basis of those that follow.
//
//   payload = f32 coordinate[slices][rank], then the elements after the last whole slice
//             or, where the basis is refreshed, all elements
//
// GradiVeQ, Yu et al., NeurIPS 2018. How slices are cut, that one exchange is enough to learn from
// and that directions are found by subspace iteration (from the last basis on, over at most 2048
// slices evenly spread) is our reconstruction. It costs 2 x rank operations for each element of a
// gradient, and has no memory of its own: put `ef` before it.

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stage.h"
#include "compressors/vectors.h"

namespace hora {
namespace {

constexpr size_t kMostLearned = 2048;  // slices
constexpr int kIterations = 3;

class Basis final : public Codec {
 public:
  Basis(size_t slice, size_t rank, bool refreshes, Binding& binding)
      : Codec(binding.extent),
        slice_(slice),
        rank_(rank),
        refreshes_(refreshes),
        memory_(binding.memory) {}

  Traits traits() const override { return {.linear = true, .conserves = memory_.conserves()}; }
  size_t granule() const override { return whole_granule(extent()); }
  DType wire(int) const override { return DType::kFloat32; }
  size_t payload_bytes(size_t count) const override {
    return 4 * (refreshes_ ? count : count / slice_ * rank_ + count % slice_);
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = memory_.slabs(count);
    slabs.push_back({"basis", count < slice_ ? 0 : slice_ * rank_, Law::kReplicated});
    slabs.push_back({"own", count / slice_ * rank_, Law::kScratch});
    return slabs;
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    Source source = source_of(turn, piece, state, memory_);
    auto* out = reinterpret_cast<float*>(payload);
    if (!settle(source, piece.count)) {
      std::fill_n(out, payload_bytes(piece.count) / 4, float_of(kPoison));
      return;
    }
    const float* p = settled(turn, piece, source);
    if (refreshes_) {
      std::copy_n(p, piece.count, out);
      return;
    }
    const size_t slices = piece.count / slice_;
    const float* basis = basis_of(turn, state, slices);
    float* own = state.find("own");
    project(p, slices, basis, own);
    std::copy_n(own, slices * rank_, out);
    std::copy_n(p + slices * slice_, piece.count % slice_, out + slices * rank_);
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    if (outcome.size() != payload_bytes(piece.count)) {
      return Status(Code::kCorrupt, fmt::format("basis: {} bytes instead of {}", outcome.size(),
                                                payload_bytes(piece.count)));
    }
    if (piece.count == 0) return {};
    const auto* sum = reinterpret_cast<const float*>(outcome.data());
    const size_t sent = outcome.size() / 4;
    if (poisoned({sum}, sent)) {
      for (size_t i = 0; i < piece.count; ++i) result[i] += float_of(kPoison);
      return {};
    }
    float* residual = slab_at(state, "residual", piece);
    if (refreshes_) {
      add_scaled(scale, sum, piece.count, result);
      take_off(turn, residual, sum, piece.count);
      learn(turn, state, {sum, piece.count});
      return {};
    }
    const size_t slices = piece.count / slice_, whole = slices * slice_;
    const float* basis = basis_of(turn, state, slices);
    const float* taken = memory_.global ? sum : state.find("own");
    const float share = memory_.global ? turn.mean : 1.0f;
    add_combinations(scale, sum, slices, basis, result);
    if (residual) add_combinations(-share, taken, slices, basis, residual);
    add_scaled(scale, sum + slices * rank_, piece.count - whole, result + whole);
    take_off(turn, residual ? residual + whole : nullptr, sum + slices * rank_,
             piece.count - whole);
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "basis: a rank's payload means nothing without its basis");
  }

 private:
  // So many slices meet so many directions while both are near.
  static constexpr size_t kSlices = 8, kDirections = 8;

  /// Calls visit(slice, first direction, directions) for all of both.
  template <class Visit>
  void for_each_meeting(size_t slices, Visit visit) const {
    for (size_t first = 0; first < slices; first += kSlices) {
      const size_t end = std::min(first + kSlices, slices);
      for (size_t k = 0; k < rank_; k += kDirections) {
        for (size_t s = first; s < end; ++s) visit(s, k, std::min(kDirections, rank_ - k));
      }
    }
  }

  /// The slices' coordinates.
  void project(const float* p, size_t slices, const float* basis, float* coordinates) const {
    const VectorKernels& vectors = host_vectors();
    for_each_meeting(slices, [&](size_t s, size_t k, size_t directions) {
      alignas(64) float sums[kDirections * kSide] = {};
      vectors.add_products(p + s * slice_, basis + k * slice_, slice_, directions, slice_, sums);
      for (size_t d = 0; d < directions; ++d)
        coordinates[s * rank_ + k + d] = join(sums + d * kSide);
    });
  }

  /// Adds `scale` times what the coordinates stand for.
  void add_combinations(float scale, const float* coordinates, size_t slices, const float* basis,
                        float* to) const {
    const VectorKernels& vectors = host_vectors();
    for_each_meeting(slices, [&](size_t s, size_t k, size_t directions) {
      float scales[kDirections];
      for (size_t d = 0; d < directions; ++d) scales[d] = scale * coordinates[s * rank_ + k + d];
      vectors.add_rows(scales, basis + k * slice_, slice_, directions, slice_, to + s * slice_);
    });
  }

  /// Takes off what was sent as it is.
  void take_off(const Turn& turn, float* residual, const float* sum, size_t count) const {
    if (!residual) return;
    if (memory_.global)
      add_scaled(-turn.mean, sum, count, residual);
    else
      std::fill_n(residual, count, 0.0f);
  }

  /// What is to be sent, which is in the memory from now on if there is one.
  const float* settled(const Turn& turn, const Piece& piece, const Source& source) const {
    if (source.residual) return source.residual;
    if (turn.input_scale == 1) return piece.input;
    float* scaled = turn.workspace.floats(Workspace::kTransform, piece.count);
    read(source, piece.count, scaled);
    return scaled;
  }

  /// One that has not been learned, or was lost when the number of ranks changed, is drawn: the
  /// same on every rank.
  const float* basis_of(const Turn& turn, State& state, size_t slices) const {
    float* basis = state.find("basis");
    if (slices > 0 && all_zero(basis, rank_ * slice_)) fill(turn, basis);
    return basis;
  }
  /// Draws in the place of directions that are zero.
  void fill(const Turn& turn, float* basis) const {
    constexpr uint64_t kShared = uint64_t{1} << 32;
    const Key key = make_key(turn.step.seed, 0, extent().id, kShared);
    for (size_t k = 0; k < rank_; ++k) {
      float* direction = basis + k * slice_;
      if (!all_zero(direction, slice_)) continue;
      for (size_t i = 0; i < slice_; ++i)
        direction[i] =
            unit_interval(random_bits(key, static_cast<uint32_t>(k * slice_ + i))) - 0.5f;
    }
    orthonormalize(basis, rank_, slice_);
  }

  /// Subspace iteration over the slices of a sum, which all ranks have alike.
  void learn(const Turn& turn, State& state, std::span<const float> sum) const {
    const size_t slices = sum.size() / slice_;
    if (slices == 0) return;
    float peak = 0;
    for (const float x : sum) peak = std::max(peak, std::fabs(x));
    if (!(peak > 1e-30f)) return;
    float *basis = state.find("basis"), one_over = 1 / peak;
    fill(turn, basis);
    const size_t every = (slices + kMostLearned - 1) / kMostLearned;
    float* next = turn.workspace.floats(Workspace::kTransform, (rank_ + 1) * slice_);
    float* slice = next + rank_ * slice_;
    for (int i = 0; i < kIterations; ++i) {
      std::fill_n(next, rank_ * slice_, 0.0f);
      for (size_t s = 0; s < slices; s += every) {
        for (size_t e = 0; e < slice_; ++e) slice[e] = one_over * sum[s * slice_ + e];
        for (size_t k = 0; k < rank_; ++k)
          add_scaled(dot(slice, basis + k * slice_, slice_), slice, slice_, next + k * slice_);
      }
      std::copy_n(next, rank_ * slice_, basis);
      orthonormalize(basis, rank_, slice_);
    }
    fill(turn, basis);
  }

  const size_t slice_, rank_;
  const bool refreshes_;
  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const size_t slice = keys.count("slice", 2, 4096), rank = keys.count("rank", 1, 4096);
  const size_t refresh = keys.count("refresh", 2, size_t{1} << 40);
  if (rank >= slice) keys.refuse("rank must be below slice, or nothing is saved");
  if (binding.inner) keys.refuse("no quantizer can follow: coordinates are added as they are");
  if (binding.code) keys.refuse("no index code can follow: it has no indices");
  if (!keys.refused().empty()) return nullptr;
  const bool refreshes = binding.step % refresh == 0;
  binding.until = binding.step + (refreshes ? 1 : refresh - binding.step % refresh);
  return std::make_unique<Basis>(slice, rank, refreshes, binding);
}

const RegisterStage basis(
    {.name = "basis",
     .order = Order::kSelect,
     .what = "coordinates in a basis learned from the last sums (GradiVeQ, Yu et al. 2018)",
     .keys = {{"slice", "512", "elements that share a basis vector"},
              {"rank", "64", "coordinates of a slice"},
              {"refresh", "500", "exchanges from one that learns, and sends all, to the next"}},
     .make = make});

}  // namespace
}  // namespace hora
