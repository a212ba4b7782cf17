// `hadamard`: random signs and a Walsh-Hadamard transform of each block before a quantizer, and
// back after it. It spreads a few large numbers over the block, which makes one scale for all of
// them a good one. The memory stays outside, in the basis of the gradient, because the signs are
// fresh at every step. All ranks draw the same signs; the quantizer's own draws are private.
//
// The transform FO-SGD uses, Stollenwerk & Jacques 2024 (there of the whole vector). A last,
// shorter block is padded with zeros to a power of two; what comes back for the padding is dropped.

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "compressors/rotate.h"
#include "compressors/stage.h"

namespace hora {
namespace {

constexpr size_t kShortest = 32;

class Hadamard final : public Codec {
 public:
  Hadamard(size_t block, Binding& binding)
      : Codec(binding.extent),
        block_(block),
        memory_(binding.memory),
        inner_(std::move(binding.inner)),
        rotation_(host_rotation()) {}

  Traits traits() const override {
    const Traits inner = inner_->traits();
    return {.unbiased = inner.unbiased && !memory_.feedback,
            .contractive = inner.contractive,
            .conserves = memory_.conserves(),
            .draws = inner.draws == Draws::kNone ? Draws::kShared : inner.draws};
  }
  size_t granule() const override { return block_; }
  size_t payload_bytes(size_t count) const override {
    const size_t rest = count % block_;
    return count / block_ * inner_->payload_bytes(block_) +
           (rest ? inner_->payload_bytes(padded(rest)) : 0);
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    const Source source = source_of(turn, piece, state, memory_);
    float* rotated = turn.workspace.floats(Workspace::kTransform, 2 * block_);
    Turn plain = turn;
    plain.input_scale = 1;
    plain.held = false;
    State none;
    for (size_t begin = 0; begin < piece.count; begin += block_) {
      const size_t n = std::min(block_, piece.count - begin), width = padded(n);
      const uint64_t first = piece.first + begin;
      const Source here = source.from(begin);
      read(here, n, rotated);
      std::fill(rotated + n, rotated + width, 0.0f);
      const bool bad = poisoned({rotated}, n);
      if (here.residual && !bad && !turn.held) std::copy_n(rotated, n, here.residual);
      rotation_.forward(rotated, n, width, key_of(turn, first), static_cast<uint32_t>(first));
      // A sum of finite numbers may be none, and a block without scales would be poisoned in parts.
      if (bad || poisoned({rotated}, width)) std::fill_n(rotated, width, float_of(kPoison));
      const size_t bytes = inner_->payload_bytes(width);
      inner_->encode(plain, {rotated, first, width}, none, payload);
      const size_t used = inner_->used_bytes({payload, bytes}, width);
      std::memset(payload + used, 0, bytes - used);
      if (here.residual && !bad) {
        float* sent = rotated + block_;
        HORA_CHECK(decode_block(plain, {payload, bytes}, first, {sent, n}).ok(), "its own payload");
        for (size_t i = 0; i < n; ++i) {
          if (is_finite(sent[i])) here.residual[i] -= sent[i];
        }
      }
      payload += bytes;
    }
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t first,
                    std::span<float> sum, float scale) const override {
    if (payload.size() != payload_bytes(sum.size())) {
      return Status(Code::kCorrupt,
                    fmt::format("hadamard: payload has {} bytes for {} elements, not {}",
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }
    // All blocks are decoded before the first is added: a damaged one must leave the sum alone.
    float* decoded = turn.workspace.floats(Workspace::kSent, sum.size() + block_);
    for (size_t begin = 0; begin < sum.size(); begin += block_) {
      const size_t n = std::min(block_, sum.size() - begin);
      const size_t bytes = inner_->payload_bytes(padded(n));
      HORA_TRY(decode_block(turn, payload.first(bytes), first + begin, {decoded + begin, n}));
      payload = payload.subspan(bytes);
    }
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += scale * decoded[i];
    return {};
  }

 private:
  static size_t padded(size_t n) { return std::max(kShortest, std::bit_ceil(n)); }

  Key key_of(const Turn& turn, uint64_t first) const {
    constexpr uint64_t kShared = uint64_t{1} << 32;  // no rank, and no owner
    return key_at(make_key(turn.step.seed, turn.step.step, extent().id, kShared), first);
  }

  /// Overwrites `out`, which has room for a whole padded block.
  Status decode_block(const Turn& turn, std::span<const std::byte> payload, uint64_t first,
                      std::span<float> out) const {
    const size_t width = padded(out.size());
    std::fill_n(out.data(), width, 0.0f);
    payload = payload.first(inner_->used_bytes(payload, width));
    HORA_TRY(inner_->decode_add(turn, payload, first, {out.data(), width}, 1.0f));
    rotation_.back(out.data(), out.size(), width, key_of(turn, first),
                   static_cast<uint32_t>(first));
    return {};
  }

  const size_t block_;
  const Memory memory_;
  const std::unique_ptr<Codec> inner_;
  const RotateKernels& rotation_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const size_t block = keys.count("block", kShortest, size_t{1} << 20);
  if (!std::has_single_bit(block)) keys.refuse("block must be a power of two");
  if (!binding.inner) keys.refuse("needs a quantizer to its right");
  if (binding.inner && binding.inner->traits().sparse)
    keys.refuse("a selection cannot follow: its indices would be those of the rotated block");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<Hadamard>(block, binding);
}

const RegisterStage hadamard(
    {.name = "hadamard",
     .order = Order::kTransform,
     .what = "random signs and a Walsh-Hadamard transform of each block (FO-SGD 2024)",
     .keys = {{"block", "32768", "elements of a block, a power of two"}},
     .make = make});

}  // namespace
}  // namespace hora
