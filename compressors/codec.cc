#include "compressors/codec.h"

#include <algorithm>

namespace hora {

Extent extent_of(std::string_view name, const Shape& shape) {
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a: the same on every machine
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  const size_t count = count_of(shape);
  const size_t rows = shape.size() > 1 && shape[0] > 0 ? static_cast<size_t>(shape[0]) : 1;
  return {hash, rows, count / rows};
}

size_t whole_granule(const Extent& extent) {
  constexpr size_t kRow = 32, kMost = size_t{1} << 31;  // a signature has 32 bits for it
  return std::clamp((extent.count() + kRow - 1) / kRow * kRow, kRow, kMost);
}

float* State::find(std::string_view name) {
  for (Slab& slab : slabs) {
    if (slab.spec.name == name) return &slab;
  }
  return nullptr;
}

State make_state(const Codec& codec, uint64_t first, size_t count) {
  State state;
  state.first = first;
  for (SlabSpec& spec : codec.slabs(count)) {
    const size_t size = spec.count;
    state.slabs.push_back({std::move(spec), std::vector<float>(size)});
  }
  return state;
}

float* slab_at(State& state, std::string_view slab, const Piece& piece) {
  float* values = state.find(slab);
  return values ? values + (piece.first - state.first) : nullptr;
}

Status Codec::vote(const std::byte*, size_t, size_t, size_t, std::byte*) const {
  return Status(Code::kInternal, "this codec's payloads are no votes");
}

void Codec::take_back(const Turn& turn, const Piece& piece, State& state,
                      std::span<const std::byte> payload, const float* result) const {
  float* residual = slab_at(state, "residual", piece);
  if (!residual || piece.count == 0) return;
  const std::span<float> said(turn.workspace.floats(Workspace::kTakeBack, piece.count),
                              piece.count);
  std::fill(said.begin(), said.end(), 0.0f);
  const Status own = decode_add(turn, payload, piece.first, said, 1.0f);
  HORA_CHECK(own.ok(), own.message());
  for (size_t i = 0; i < piece.count; ++i) {
    // A poisoned element was never taken from the residual.
    if (is_finite(said[i]) && (!result || !is_finite(result[i]))) residual[i] += said[i];
  }
}

Status Codec::finish(const Turn& turn, const Piece& piece, State&,
                     std::span<const std::byte> outcome, float* result, float scale) const {
  return decode_add(turn, outcome, piece.first, {result, piece.count}, scale);
}

}  // namespace hora
