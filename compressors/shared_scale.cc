#include "compressors/shared_scale.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "compressors/level_words.h"

namespace hora {
namespace {

/// For codes of `ranks` ranks in words of 63 bits, so that no sum reaches the sign.
WordLayout layout_of(int32_t side, int ranks) {
  const auto width = static_cast<uint32_t>(
      std::bit_width(2 * static_cast<uint64_t>(side) * static_cast<uint64_t>(ranks)));
  HORA_CHECK(width < 32, fmt::format("sums over {} ranks are no 32-bit numbers", ranks));
  return {width, 63 / width};
}

size_t words_of(const WordLayout& layout, size_t count) {
  const size_t tile = size_t{layout.fields} * kLanes;
  return count / tile * kLanes + std::min<size_t>(count % tile, kLanes);
}

/// What a block's elements are multiples of, and one over it.
struct Step {
  float size = 0, inverse = 0;

  Step(float peak, int32_t side) {
    const auto levels = static_cast<float>(side);
    size = peak / levels;
    inverse = levels / peak;
    if (!is_finite(inverse)) inverse = 0;  // near the smallest float all are sent as 0
  }
};

class SharedScale final : public Codec {
 public:
  SharedScale(int bits, bool random, size_t bucket, const Binding& binding)
      : Codec(binding.extent),
        side_((1 << (bits - 1)) - 1),
        random_(random),
        bucket_(bucket),
        memory_(binding.memory) {}

  Traits traits() const override {
    return {.linear = true,
            .unbiased = random_ && !memory_.feedback,
            .conserves = memory_.conserves(),
            .draws = random_ ? Draws::kPrivate : Draws::kNone};
  }
  size_t granule() const override { return bucket_; }
  size_t payload_bytes(size_t count) const override { return blocks(count) * sizeof(uint32_t); }
  int rounds() const override { return 2; }
  DType wire(int round) const override { return round == 0 ? DType::kInt32 : DType::kInt64; }
  bool takes_largest(int round) const override { return round == 0; }
  size_t round_bytes(int round, size_t count, int ranks) const override {
    if (round == 0) return payload_bytes(count);
    return words_of(layout_of(side_, ranks), count) * sizeof(uint64_t);
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = memory_.slabs(count);
    slabs.push_back({"peaks", blocks(count), Law::kScratch});
    return slabs;
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    const Source source = source_of(turn, piece, state, memory_);
    auto* peaks = reinterpret_cast<uint32_t*>(payload);
    for (size_t begin = 0; begin < piece.count; begin += bucket_, ++peaks) {
      const size_t n = std::min(bucket_, piece.count - begin);
      const Source here = source.from(begin);
      const uint32_t peak = host_walks().peak(here, n);
      *peaks = peak;
      if (here.residual && !turn.held && peak < kInfinite) read(here, n, here.residual);
    }
  }

  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    const auto* shared = reinterpret_cast<const float*>(outcome);
    std::copy_n(shared, blocks(piece.count), peaks_at(state, piece));
    auto* words = reinterpret_cast<uint64_t*>(payload);
    std::fill_n(words, words_of(layout_of(side_, turn.step.size), piece.count), uint64_t{0});
    const LevelJob own = own_of(turn, piece, state);
    // Of a block that somebody poisoned all codes are 0.
    for_each_block(turn, piece, state, [&](size_t begin, const LevelBlock& block, float peak) {
      if (is_finite(peak)) host_levels().write(part_of(own, begin, block, peak), words);
    });
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    const size_t expected = round_bytes(1, piece.count, turn.step.size);
    if (outcome.size() != expected) {
      return Status(Code::kCorrupt,
                    fmt::format("shared scale: {} bytes instead of {}", outcome.size(), expected));
    }
    const auto* words = reinterpret_cast<const uint64_t*>(outcome.data());
    float* residual = slab_at(state, "residual", piece);
    const LevelJob own = own_of(turn, piece, state);
    const LevelKernels& levels = host_levels();
    for_each_block(turn, piece, state, [&](size_t begin, const LevelBlock& block, float peak) {
      float* out = result + begin;
      if (!is_finite(peak)) {
        for (size_t i = 0; i < block.count; ++i) out[i] += float_of(kPoison);
        return;
      }
      levels.add(block, words, turn.step.size, scale, out);
      if (!residual) return;
      if (memory_.global)
        levels.add(block, words, turn.step.size, -turn.mean, residual + begin);
      else
        levels.take(part_of(own, begin, block, peak), residual + begin);
    });
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "shared scale: a rank's payload means nothing alone");
  }

 private:
  static constexpr uint32_t kInfinite = 0x7F800000u;

  /// Visits (offset in the piece, block, its peak on all ranks) once these are known.
  template <class Visit>
  void for_each_block(const Turn& turn, const Piece& piece, State& state, Visit visit) const {
    const WordLayout layout = layout_of(side_, turn.step.size);
    const float* peak = peaks_at(state, piece);
    for (size_t begin = 0; begin < piece.count; begin += bucket_, ++peak) {
      const size_t n = std::min(bucket_, piece.count - begin);
      visit(begin, LevelBlock{begin / kLanes, n, layout, Step(*peak, side_).size, side_}, *peak);
    }
  }

  size_t blocks(size_t count) const { return (count + bucket_ - 1) / bucket_; }
  float* peaks_at(State& state, const Piece& piece) const {
    return state.find("peaks") + (piece.first - state.first) / bucket_;
  }

  /// What a rank encodes, once encode() has settled the memory, and with which draws.
  LevelJob own_of(const Turn& turn, const Piece& piece, State& state) const {
    const float* residual = slab_at(state, "residual", piece);
    return {.block = {},
            .from = residual ? residual : piece.input,
            .first = piece.first,
            .scale = residual ? 1.0f : turn.input_scale,
            .inverse = 0,
            .random = random_,
            .key = make_key(turn.step.seed, turn.step.step, extent().id, turn.drawer)};
  }
  LevelJob part_of(LevelJob own, size_t begin, const LevelBlock& block, float peak) const {
    own.block = block;
    own.from += begin;
    own.first += begin;
    own.inverse = Step(peak, side_).inverse;
    return own;
  }

  const int32_t side_;
  const bool random_;
  const size_t bucket_;
  const Memory memory_;
};

}  // namespace

std::unique_ptr<Codec> make_shared_scale(int bits, bool random, size_t bucket,
                                         const Binding& binding) {
  return std::make_unique<SharedScale>(bits, random, bucket, binding);
}

}  // namespace hora
