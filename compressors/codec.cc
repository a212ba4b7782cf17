#include "compressors/codec.h"

#include <algorithm>
#include <numeric>

#include "compressors/convert.h"

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

size_t granule_of(const Codec& up, const Codec* down) {
  if (!down) return up.granule();
  const size_t both = std::lcm(up.granule(), down->granule());
  return both < up.extent().count() ? both : whole_granule(up.extent());
}

float* State::find(std::string_view name) {
  Slab* const found = slab(name);
  return found ? found->values.data() : nullptr;
}

State::Slab* State::slab(std::string_view name) {
  for (Slab& slab : slabs) {
    if (slab.spec.name == name) return &slab;
  }
  return nullptr;
}

std::vector<float> State::Slab::wide() const {
  if (!spec.half) return values;
  std::vector<float> floats(halves.size());
  widen(DType::kBFloat16, reinterpret_cast<const std::byte*>(halves.data()), floats.data(),
        floats.size());
  return floats;
}

void State::Slab::set(std::span<const float> from) {
  if (spec.half)
    narrow(DType::kBFloat16, from.data(), reinterpret_cast<std::byte*>(halves.data()), from.size());
  else
    std::copy(from.begin(), from.end(), values.begin());
}

void State::Slab::add(size_t i, float value) {
  if (!spec.half) {
    values[i] += value;
    return;
  }
  float sum;
  auto* const half = reinterpret_cast<std::byte*>(&halves[i]);
  widen(DType::kBFloat16, half, &sum, 1);
  sum += value;
  narrow(DType::kBFloat16, &sum, half, 1);
}

State make_state(const Codec& codec, uint64_t first, size_t count) {
  State state;
  state.first = first;
  for (SlabSpec& spec : codec.slabs(count)) {
    State::Slab& slab = state.slabs.emplace_back();
    slab.values.resize(spec.half ? 0 : spec.count);
    slab.halves.resize(spec.half ? spec.count : 0);
    slab.spec = std::move(spec);
  }
  return state;
}

float* slab_at(State& state, std::string_view slab, const Piece& piece) {
  State::Slab* const found = state.slab(slab);
  if (!found) return nullptr;
  if (found->spec.half)
    return found->lent ? found->lent + (piece.first - found->lent_first) : nullptr;
  return found->values.empty() ? nullptr : found->values.data() + (piece.first - state.first);
}

void owe(State& state, uint64_t element, float value) {
  State::Slab* const residual = state.slab("residual");
  if (residual) residual->add(element - state.first, value);
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
