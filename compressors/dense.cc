#include "compressors/dense.h"

#include <algorithm>

#include <fmt/format.h>

#include "compressors/majority.h"

namespace hora {
namespace {

class Dense final : public Codec {
 public:
  Dense(const BlockKernels& kernels, size_t bucket, DType wire, float parameter,
        const Binding& binding)
      : Codec(binding.extent),
        kernels_(kernels),
        memory_(binding.memory),
        bucket_(bucket),
        wire_(wire),
        parameter_(parameter) {}

  Traits traits() const override {
    // A sum of halves is rounded where no memory sees it: with a memory it must be recoded.
    return {.linear = kernels_.promises.linear && !memory_.feedback,
            .unbiased = kernels_.promises.unbiased && !memory_.feedback,
            .contractive = kernels_.promises.contractive,
            .conserves = memory_.conserves(),
            .votes = kernels_.promises.votes && !memory_.feedback,
            .draws = kernels_.random ? Draws::kPrivate : Draws::kNone};
  }
  size_t granule() const override { return bucket_; }
  DType wire(int) const override { return wire_; }

  size_t payload_bytes(size_t count) const override {
    return scale_bytes(count) + count / bucket_ * code_bytes(kernels_.bits, bucket_) +
           code_bytes(kernels_.bits, count % bucket_);
  }

  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    const Source source = source_of(turn, piece, state, memory_);
    const EncodeJob job{.input = source.input,
                        .residual = source.residual,
                        .scales = reinterpret_cast<float*>(payload),
                        .codes = reinterpret_cast<uint8_t*>(payload) + scale_bytes(piece.count),
                        .first = piece.first,
                        .count = piece.count,
                        .bucket = static_cast<uint32_t>(bucket_),
                        .input_scale = source.input_scale,
                        .residual_scale = source.residual_scale,
                        .key = make_key(turn.step.seed, turn.step.step, extent().id, turn.drawer),
                        .mode = source.residual ? Mode::kFeedback : Mode::kPlain,
                        .parameter = parameter_};
    kernels_.encode(job, turn.stream);
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t,
                    std::span<float> sum, float scale) const override {
    if (payload.size() != payload_bytes(sum.size())) {
      return Status(Code::kCorrupt,
                    fmt::format("{}: payload has {} bytes for {} elements, not {}", kernels_.family,
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }
    const auto* scales = reinterpret_cast<const float*>(payload.data());
    for (size_t i = 0; i < scale_bytes(sum.size()) / sizeof(float); ++i) {
      if (!is_finite(scales[i]) && bits_of(scales[i]) != kPoison) {
        return Status(Code::kCorrupt,
                      fmt::format("{}: a block's scale is not finite", kernels_.family));
      }
    }
    kernels_.decode(
        {.scales = scales,
         .codes = reinterpret_cast<const uint8_t*>(payload.data()) + scale_bytes(sum.size()),
         .sum = sum.data(),
         .count = sum.size(),
         .bucket = static_cast<uint32_t>(bucket_),
         .scale = scale,
         .overwrite = false},
        turn.stream);
    return {};
  }

  Status vote(const std::byte* payloads, size_t stride, size_t voters, size_t count,
              std::byte* winner) const override {
    const size_t codes = scale_bytes(count);
    auto* scales = reinterpret_cast<float*>(winner);
    std::fill_n(scales, codes / sizeof(float), parameter_);
    for (size_t v = 0; v < voters; ++v) {
      const auto* said = reinterpret_cast<const float*>(payloads + v * stride);
      for (size_t block = 0; block < codes / sizeof(float); ++block) {
        if (bits_of(said[block]) == bits_of(parameter_)) continue;
        if (bits_of(said[block]) != kPoison)
          return Status(Code::kCorrupt, fmt::format("{}: rank {} of the set votes with scale {}",
                                                    kernels_.family, v, said[block]));
        scales[block] = float_of(kPoison);
      }
    }
    elect(payloads + codes, stride, voters, payload_bytes(count) - codes, winner + codes);
    return {};
  }

 private:
  size_t scale_bytes(size_t count) const {
    const size_t blocks = (count + bucket_ - 1) / bucket_;
    return blocks * static_cast<size_t>(kernels_.scales) * sizeof(float);
  }

  const BlockKernels& kernels_;
  const Memory memory_;
  const size_t bucket_;
  const DType wire_;
  const float parameter_;
};

}  // namespace

std::unique_ptr<Codec> make_dense(const BlockKernels& kernels, size_t bucket, DType wire,
                                  float parameter, const Binding& binding) {
  return std::make_unique<Dense>(kernels, bucket, wire, parameter, binding);
}

}  // namespace hora
