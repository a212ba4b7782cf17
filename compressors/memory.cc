#include "compressors/memory.h"

namespace hora {
namespace {

constexpr uint32_t kInfinite = 0x7F800000u;
// 2^103, half of the last place of the largest float: whatever finite number a smaller one is added
// to, the sum is finite.
constexpr uint32_t kHarmless = (103u + 127u) << 23;

}  // namespace

bool adds_safely(uint32_t magnitude) {
  return magnitude < kHarmless;
}

Source source_of(const Turn& turn, const Piece& piece, State& state, const Memory& memory) {
  float* residual = slab_at(state, "residual", piece);
  if (turn.held) return Source::settled(residual);
  const float rate = memory.update_units ? turn.step.rate_ratio : 1.0f;
  return {piece.input, residual, turn.input_scale, memory.decay * rate};
}

bool poisoned(const Source& source, size_t count) {
  return host_walks().peak(source, count) >= kInfinite;
}

void read(const Source& source, size_t count, float* to) {
  host_walks().read(source, count, to);
}

bool surely_finite(const Source& source, size_t count) {
  const bool grows = !(source.residual_scale >= 0 && source.residual_scale <= 1);
  if (source.residual && grows) return false;
  const Source gradient{source.input, nullptr, source.input_scale, 0};
  return adds_safely(host_walks().peak(gradient, count));
}

bool settle(Source& source, size_t count) {
  const bool kept = !source.residual || source.is_settled();
  if ((kept || !surely_finite(source, count)) && poisoned(source, count)) return false;
  if (kept) return true;
  const uint32_t peak = host_walks().read(source, count, source.residual);
  source = Source::settled(source.residual);
  return peak < kInfinite;
}

}  // namespace hora
