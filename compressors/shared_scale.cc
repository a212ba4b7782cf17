#include "compressors/shared_scale.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "compressors/blocks_jobs.h"

namespace hora {
namespace {

/// How codes of `ranks` ranks lie in words of 63 bits, so that no sum reaches the sign.
struct Packing {
  size_t width, fields;

  Packing(int32_t side, int ranks)
      : width(std::bit_width(2 * static_cast<uint64_t>(side) * static_cast<uint64_t>(ranks))),
        fields(63 / width) {}
  size_t tile() const { return fields * kLanes; }  ///< elements
  size_t words(size_t count) const {
    return count / tile() * kLanes + std::min<size_t>(count % tile(), kLanes);
  }
};

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
    return Packing(side_, ranks).words(count) * sizeof(uint64_t);
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
    const Packing packing(side_, turn.step.size);
    auto* words = reinterpret_cast<uint64_t*>(payload);
    std::fill_n(words, packing.words(piece.count), uint64_t{0});
    const Own own = own_of(turn, piece, state);
    for_each_row(packing, piece.count, [&](const Row& row) {
      int32_t codes[kLanes];
      encode_row(own, row, codes);
      for (size_t k = 0; k < row.count; ++k)
        words[row.word + k] |= static_cast<uint64_t>(codes[k]) << row.shift;
    });
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    const size_t expected = round_bytes(1, piece.count, turn.step.size);
    if (outcome.size() != expected) {
      return Status(Code::kCorrupt,
                    fmt::format("shared scale: {} bytes instead of {}", outcome.size(), expected));
    }
    const Packing packing(side_, turn.step.size);
    const auto* words = reinterpret_cast<const uint64_t*>(outcome.data());
    const float* peaks = peaks_at(state, piece);
    float* residual = slab_at(state, "residual", piece);
    const Own mine = own_of(turn, piece, state);
    const uint64_t mask = (uint64_t{1} << packing.width) - 1;
    const int64_t zero = int64_t{side_} * turn.step.size;
    for_each_row(packing, piece.count, [&](const Row& row) {
      const float peak = peaks[row.first / bucket_];
      float* out = result + row.first;
      if (!is_finite(peak)) {
        for (size_t k = 0; k < row.count; ++k) out[k] += float_of(kPoison);
        return;
      }
      const Step step(peak, side_);
      int32_t own[kLanes];
      if (residual && !memory_.global) encode_row(mine, row, own);
      for (size_t k = 0; k < row.count; ++k) {
        const auto sum = static_cast<int64_t>(words[row.word + k] >> row.shift & mask) - zero;
        const float value = static_cast<float>(sum) * step.size;
        out[k] += scale * value;
        if (residual)
          residual[row.first + k] -=
              memory_.global ? turn.mean * value : static_cast<float>(own[k] - side_) * step.size;
      }
    });
    return {};
  }

  Status decode_add(const Turn&, std::span<const std::byte>, uint64_t, std::span<float>,
                    float) const override {
    return Status(Code::kCorrupt, "shared scale: a rank's payload means nothing alone");
  }

 private:
  static constexpr uint32_t kInfinite = 0x7F800000u;

  /// Up to 32 elements of one block, and where their codes are.
  struct Row {
    size_t first, count, word, shift;
  };
  template <class Visit>
  static void for_each_row(const Packing& packing, size_t count, Visit visit) {
    for (size_t first = 0; first < count; first += kLanes) {
      const size_t tile = first / packing.tile(), row = first % packing.tile() / kLanes;
      visit(
          Row{first, std::min<size_t>(kLanes, count - first), tile * kLanes, row * packing.width});
    }
  }

  size_t blocks(size_t count) const { return (count + bucket_ - 1) / bucket_; }
  float* peaks_at(State& state, const Piece& piece) const {
    return state.find("peaks") + (piece.first - state.first) / bucket_;
  }

  /// What a rank encodes, once encode() has settled the memory, and with which draws.
  struct Own {
    const float *from, *peaks;
    float scale;
    uint64_t first;
    Key key;
  };
  Own own_of(const Turn& turn, const Piece& piece, State& state) const {
    const float* residual = slab_at(state, "residual", piece);
    return {residual ? residual : piece.input, peaks_at(state, piece),
            residual ? 1.0f : turn.input_scale, piece.first,
            make_key(turn.step.seed, turn.step.step, extent().id, turn.drawer)};
  }

  /// Codes from 0 to 2 side; of a block that somebody poisoned all are 0.
  void encode_row(const Own& own, const Row& row, int32_t* codes) const {
    const float peak = own.peaks[row.first / bucket_];
    std::fill_n(codes, kLanes, 0);
    if (!is_finite(peak)) return;
    const float inverse = Step(peak, side_).inverse, scale = own.scale;
    const auto zero = static_cast<float>(side_), most = static_cast<float>(2 * side_);
    const float* from = own.from + row.first;
    const uint64_t first = own.first + row.first;
    const Key key = key_at(own.key, first);
    for (size_t k = 0; k < row.count; ++k) {
      const auto index = static_cast<uint32_t>(first + k);
      const float dither = random_ ? unit_interval(random_bits(key, index)) : 0.5f;
      const float place = scale * from[k] * inverse + zero + dither;
      // A peer that lies about its maximum must not bring codes that do not fit.
      const float kept = place > 0 ? std::min(place, most) : 0;
      codes[k] = static_cast<int32_t>(kept);
    }
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
