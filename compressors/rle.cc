// `rle`: runs of zeros as one word each; everything else as it is. Lossless.
//
//   payload = u32 words, word[words]
//   word    = a float that is not +0, or 0x7FC00000 + length: a run of 1 to 2^22 - 1 zeros
//
// Hofmann & Ruenger, "MPI Reduction Operations for Sparse Floating-point Data", EuroPVM/MPI 2008;
// the word for a run is ours. A NaN becomes the one that is no run. Never longer than the floats
// by more than one word.

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stage.h"

namespace hora {
namespace {

constexpr uint32_t kRun = 0x7FC00000u, kLongest = (1u << 22) - 1, kNotANumber = 0xFFC00000u;

bool is_run(uint32_t word) {
  return (word & ~kLongest) == kRun && word != kRun;
}

class Rle final : public Codec {
 public:
  explicit Rle(const Binding& binding) : Codec(binding.extent), memory_(binding.memory) {}

  Traits traits() const override {
    return {.unbiased = true,
            .contractive = true,
            .exact_values = true,
            .conserves = memory_.conserves(),
            .varies = true};
  }
  size_t granule() const override { return kLanes32; }
  size_t payload_bytes(size_t count) const override { return count == 0 ? 0 : 4 + 4 * count; }
  size_t used_bytes(std::span<const std::byte> payload, size_t count) const override {
    if (count == 0) return 0;
    if (payload.size() < sizeof(uint32_t)) return payload.size();
    return std::min<uint64_t>(payload.size(), 4 + uint64_t{4} * words_in(payload));
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    const Source source = source_of(turn, piece, state, memory_);
    auto* words = reinterpret_cast<uint32_t*>(payload) + 1;
    size_t used = 0;
    uint32_t run = 0;
    for (size_t i = 0; i < piece.count; ++i) {
      const float p = source[i];
      const uint32_t bits = p != p ? kNotANumber : bits_of(p);
      // All of a finite number is sent; what was owed to another stays owed.
      if (source.residual && is_finite(p)) source.residual[i] = 0;
      if (bits == 0 && run < kLongest) {
        ++run;
        continue;
      }
      if (run > 0) words[used++] = kRun + run;
      run = bits == 0;
      if (bits != 0) words[used++] = bits;
    }
    if (run > 0) words[used++] = kRun + run;
    words[-1] = static_cast<uint32_t>(used);
  }

  Status decode_add(const Turn&, std::span<const std::byte> payload, uint64_t, std::span<float> sum,
                    float scale) const override {
    const size_t bytes = payload.size();
    if (bytes > payload_bytes(sum.size()) || bytes % 4 != 0 || (bytes == 0) != sum.empty() ||
        (bytes > 0 && bytes != 4 + uint64_t{4} * words_in(payload))) {
      return Status(Code::kCorrupt,
                    fmt::format("rle: {} bytes are no payload for {} elements", bytes, sum.size()));
    }
    if (sum.empty()) return {};
    const auto* words = reinterpret_cast<const uint32_t*>(payload.data()) + 1;
    const uint32_t used = words[-1];
    uint64_t elements = 0;
    for (uint32_t j = 0; j < used; ++j) elements += is_run(words[j]) ? words[j] - kRun : 1;
    if (elements != sum.size())
      return Status(Code::kCorrupt, fmt::format("rle: {} words for {} elements hold {}", used,
                                                sum.size(), elements));
    size_t i = 0;
    for (uint32_t j = 0; j < used; ++j) {
      if (is_run(words[j]))
        i += words[j] - kRun;
      else
        sum[i++] += scale * float_of(words[j]);
    }
    return {};
  }

 private:
  static constexpr size_t kLanes32 = 32;

  static uint32_t words_in(std::span<const std::byte> payload) {
    uint32_t words;
    std::memcpy(&words, payload.data(), sizeof(words));
    return words;
  }

  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys&, Binding& binding) {
  return std::make_unique<Rle>(binding);
}

const RegisterStage rle({.name = "rle",
                         .order = Order::kQuantize,
                         .what = "runs of zeros as one word; lossless (Hofmann & Ruenger 2008)",
                         .make = make});

}  // namespace
}  // namespace hora
