// `randk`: a share of the elements, drawn at random, the same on all ranks; so payloads are sums
// and no index travels. Without a memory what is sent is made larger by the count of elements it
// stands for, which is unbiased; with one it is sent as it is.
//
//   payload = f32 values[k of each block of 32768 elements]
//
// Wangni et al., "Gradient Sparsification", 2018; Stich et al., "Sparsified SGD with Memory", 2018.
// Of each block one element is drawn from each of k equal strata, so that they ascend.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compressors/stage.h"

namespace hora {
namespace {

constexpr size_t kBlock = 32768;

class RandK final : public Codec {
 public:
  RandK(double ratio, Binding& binding)
      : Codec(binding.extent), ratio_(ratio), memory_(binding.memory) {}

  Traits traits() const override {
    return {.linear = true,
            .unbiased = !memory_.feedback,
            .exact_values = memory_.feedback && !memory_.global,
            .conserves = memory_.conserves(),
            .draws = Draws::kShared};
  }
  size_t granule() const override { return kBlock; }
  DType wire(int) const override { return DType::kFloat32; }
  size_t payload_bytes(size_t count) const override {
    return (count / kBlock * kept(kBlock) + kept(count % kBlock)) * sizeof(float);
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    const Source source = source_of(turn, piece, state, memory_);
    auto* values = reinterpret_cast<float*>(payload);
    for_each_block(turn, piece.first, piece.count, [&](size_t begin, const Block& block) {
      const Source here = source.from(begin);
      if (poisoned(here, block.count)) {
        std::fill_n(values, block.kept, float_of(kPoison));
      } else {
        for (size_t j = 0; j < block.kept; ++j) {
          const float p = here[block.drawn(j)];
          values[j] = memory_.feedback ? p : p * static_cast<float>(block.stratum(j));
        }
        if (here.residual && !turn.held) read(here, block.count, here.residual);
      }
      values += block.kept;
    });
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t first,
                    std::span<float> sum, float scale) const override {
    if (payload.size() != payload_bytes(sum.size())) {
      return Status(Code::kCorrupt,
                    fmt::format("randk: payload has {} bytes for {} elements, not {}",
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }
    const auto* values = reinterpret_cast<const float*>(payload.data());
    for_each_block(turn, first, sum.size(), [&](size_t begin, const Block& block) {
      float* out = sum.data() + begin;
      if (values[0] != values[0]) {  // whoever had a NaN wrote nothing else
        for (size_t i = 0; i < block.count; ++i) out[i] += float_of(kPoison);
      } else {
        for (size_t j = 0; j < block.kept; ++j) out[block.drawn(j)] += scale * values[j];
      }
      values += block.kept;
    });
    return {};
  }

  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    HORA_TRY(decode_add(turn, outcome, piece.first, {result, piece.count}, scale));
    float* residual = slab_at(state, "residual", piece);
    if (!residual) return {};
    const auto* values = reinterpret_cast<const float*>(outcome.data());
    for_each_block(turn, piece.first, piece.count, [&](size_t begin, const Block& block) {
      for (size_t j = 0; j < block.kept; ++j) {
        const size_t i = begin + block.drawn(j);
        if (is_finite(result[i]))
          residual[i] = memory_.global ? residual[i] - turn.mean * values[j] : 0;
      }
      values += block.kept;
    });
    return {};
  }

 private:
  /// Of `count` elements, `kept` are drawn: one of each of as many runs of equal length, up to one.
  struct Block {
    size_t count, kept;
    Key key;
    size_t begin(size_t j) const { return j * count / kept; }
    size_t stratum(size_t j) const { return begin(j + 1) - begin(j); }
    size_t drawn(size_t j) const {
      const uint64_t random = random_bits(key, static_cast<uint32_t>(j));
      return begin(j) + (random * stratum(j) >> 32);
    }
  };

  size_t kept(size_t count) const {
    const auto wanted = static_cast<size_t>(std::ceil(ratio_ * static_cast<double>(count)));
    return std::min(std::max<size_t>(wanted, 1), count);
  }

  /// Visits (offset in the piece, block) for the blocks of `count` elements from `first` on.
  template <class Visit>
  void for_each_block(const Turn& turn, uint64_t first, size_t count, Visit visit) const {
    constexpr uint64_t kShared = uint64_t{1} << 32;  // no rank, and no owner
    const Key key = make_key(turn.step.seed, turn.step.step, extent().id, kShared);
    for (size_t begin = 0; begin < count; begin += kBlock) {
      const size_t n = std::min(kBlock, count - begin);
      const auto number = static_cast<uint32_t>((first + begin) / kBlock);
      visit(begin, Block{n, kept(n), {key.a, key.b ^ number * 0x9E3779B1u}});
    }
  }

  const double ratio_;
  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const double ratio = keys.number("ratio", 1e-9, 1);
  if (binding.inner) keys.refuse("no quantizer can follow: payloads are added as they are");
  if (binding.code) keys.refuse("no index code can follow: all ranks draw the same indices");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<RandK>(ratio, binding);
}

const RegisterStage randk({.name = "randk",
                           .order = Order::kSelect,
                           .what = "elements that all ranks draw alike (Stich et al. 2018)",
                           .keys = {{"ratio", "0.01", "share of the elements that is sent"}},
                           .make = make});

}  // namespace
}  // namespace hora
