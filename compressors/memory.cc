#include "compressors/memory.h"

namespace hora {

Source source_of(const Turn& turn, const Piece& piece, State& state, const Memory& memory) {
  float* residual = slab_at(state, "residual", piece);
  if (turn.held) return {residual, residual, 0.0f, 1.0f};
  const float rate = memory.update_units ? turn.step.rate_ratio : 1.0f;
  return {piece.input, residual, turn.input_scale, memory.decay * rate};
}

bool poisoned(const Source& source, size_t count) {
  const float *g = source.input, *e = source.residual;
  const float gs = source.input_scale, es = source.residual_scale;
  uint32_t bad = 0;
  if (e) {
    for (size_t i = 0; i < count; ++i) bad |= magnitude_bits(gs * g[i] + es * e[i]) >= 0x7F800000u;
  } else {
    for (size_t i = 0; i < count; ++i) bad |= magnitude_bits(gs * g[i]) >= 0x7F800000u;
  }
  return bad != 0;
}

void read(const Source& source, size_t count, float* to) {
  const float *g = source.input, *e = source.residual;
  const float gs = source.input_scale, es = source.residual_scale;
  if (e) {
#pragma GCC ivdep
    for (size_t i = 0; i < count; ++i) to[i] = gs * g[i] + es * e[i];
  } else {
    for (size_t i = 0; i < count; ++i) to[i] = gs * g[i];
  }
}

}  // namespace hora
