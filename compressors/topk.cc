// `topk`: the `ratio` largest magnitudes of a piece, ties to the lower index, raw or through a
// quantizer. Exact: a histogram of the leading magnitude bits finds the few candidates.
//
// Preset drop: Aji & Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017,
// with an exact threshold for each tensor in the place of a sampled global one.
//
//   payload = u32 used, u32 segment_count[ceil(count / 65536)], u16 index[k, padded to 4 bytes],
//             values[k] (f32, or the quantizer's payload)
//   used    = k, or kPoisoned: the piece held a NaN or an Inf and decodes to NaN everywhere
//
// An index is relative to its segment of 65536 elements, so that segments can decode in parallel.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include <fmt/format.h>

#include "compressors/stage.h"

namespace hora {
namespace {

constexpr size_t kSegment = 65536;
constexpr uint32_t kPoisoned = ~0u;
constexpr uint32_t kShift = 19, kBins = 1u << (31 - kShift);
constexpr uint32_t kInfiniteBin = 0x7F800000u >> kShift;
constexpr size_t kFound = 1, kMagnitudes = 2, kValues = 3, kSent = 4;  // workspace slots

/// p = scale g + decay e, element by element.
struct Compensated {
  const float* input;
  const float* residual;  // null: no memory
  float input_scale, decay;
  float operator[](size_t i) const {
    const float p = input_scale * input[i];
    return residual ? p + decay * residual[i] : p;
  }
};

/// Where the k-th largest magnitude lies: in `bin`, below `above` larger ones in higher bins.
struct Cut {
  bool poisoned = false;
  uint32_t bin = 0;
  size_t above = 0, inside = 0;
};

Cut find_cut(const Compensated& p, size_t count, size_t k) {
  // Two tables, because neighbours often fall into one bin and would wait for each other's store.
  uint32_t histogram[2][kBins] = {};
  for (size_t i = 0; i < count; ++i) ++histogram[i % 2][magnitude_bits(p[i]) >> kShift];
  Cut cut;
  for (uint32_t bin = kBins; bin-- > 0;) {
    const size_t inside = size_t{histogram[0][bin]} + histogram[1][bin];
    if (inside > 0 && bin >= kInfiniteBin) cut.poisoned = true;
    cut.bin = bin;
    cut.inside = inside;
    if (cut.above + inside >= k) break;
    cut.above += inside;
  }
  return cut;
}

class TopK final : public Codec {
 public:
  TopK(double ratio, Binding&& binding)
      : Codec(binding.extent),
        ratio_(ratio),
        memory_(binding.memory),
        values_(std::move(binding.inner)) {}

  Traits traits() const override {
    return {.contractive = !values_ || values_->traits().contractive,
            .exact_values = values_ == nullptr,
            .sparse = true};
  }
  size_t granule() const override { return kSegment; }
  size_t payload_bytes(size_t count) const override {
    return count == 0 ? 0 : values_at(count) + value_bytes(kept(count));
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    if (!memory_.feedback) return {};
    return {{"residual", count, Law::kPending}};
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    std::memset(payload, 0, payload_bytes(piece.count));
    float* residual = slab_at(state, "residual", piece);
    const float rate = memory_.update_units ? turn.step.rate_ratio : 1.0f;
    const Compensated p{piece.input, residual, turn.input_scale, memory_.decay * rate};
    const size_t k = kept(piece.count);
    const Cut cut = find_cut(p, piece.count, k);
    if (cut.poisoned) {
      std::memcpy(payload, &kPoisoned, sizeof(kPoisoned));
      return;
    }
    float* values = turn.workspace.floats(kValues, k);
    const uint32_t* chosen = choose(turn.workspace, p, piece.count, k, cut, residual, values);
    write(turn, chosen, values, piece.count, payload, residual);
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t,
                    std::span<float> sum, float scale) const override {
    if (payload.size() != payload_bytes(sum.size())) {
      return Status(Code::kCorrupt,
                    fmt::format("topk: payload has {} bytes for {} elements, not {}",
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }
    if (sum.empty()) return {};
    const auto* head = reinterpret_cast<const uint32_t*>(payload.data());
    if (head[0] == kPoisoned) {
      for (float& element : sum) element += float_of(kPoison);
      return {};
    }
    HORA_TRY(check(payload, sum.size()));
    const size_t used = head[0];
    const auto* values = reinterpret_cast<const float*>(payload.data() + values_at(sum.size()));
    if (values_) {
      const size_t k = kept(sum.size());
      float* decoded = turn.workspace.floats(kSent, k);
      std::fill_n(decoded, k, 0.0f);
      HORA_TRY(
          values_->decode_add(turn, payload.subspan(values_at(sum.size())), 0, {decoded, k}, 1.0f));
      values = decoded;
    } else {
      for (size_t j = 0; j < used; ++j) {
        if (!is_finite(values[j])) return Status(Code::kCorrupt, "topk: a value is not finite");
      }
    }
    for_each_entry(payload, sum.size(), [&](size_t i, size_t j) { sum[i] += scale * values[j]; });
    return {};
  }

 private:
  size_t kept(size_t count) const {
    const auto wanted = static_cast<size_t>(std::ceil(ratio_ * static_cast<double>(count)));
    return std::clamp<size_t>(wanted, 1, count);
  }
  static size_t segments(size_t count) { return (count + kSegment - 1) / kSegment; }
  static size_t index_at(size_t count) { return 4 + 4 * segments(count); }
  size_t values_at(size_t count) const { return index_at(count) + (kept(count) * 2 + 3) / 4 * 4; }
  size_t value_bytes(size_t kept) const {
    return values_ ? values_->payload_bytes(kept) : kept * 4;
  }

  /// Writes p over the residual, if there is one. Gives the k positions, ascending, and their
  /// values.
  static const uint32_t* choose(Workspace& workspace, const Compensated& p, size_t count, size_t k,
                                const Cut& cut, float* residual, float* values) {
    const size_t candidates = cut.above + cut.inside;
    auto* found =
        reinterpret_cast<uint32_t*>(workspace.memory(kFound, (candidates + 1) * sizeof(uint32_t)));
    auto* ties = reinterpret_cast<uint32_t*>(
        workspace.memory(kMagnitudes, (cut.inside + 1) * sizeof(uint32_t)));
    size_t n = 0, inside = 0;
    for (size_t i = 0; i < count; ++i) {
      const float value = p[i];
      if (residual) residual[i] = value;
      const uint32_t magnitude = magnitude_bits(value), bin = magnitude >> kShift;
      found[n] = static_cast<uint32_t>(i);
      n += bin >= cut.bin;
      ties[inside] = magnitude;
      inside += bin == cut.bin;
    }
    const size_t wanted = k - cut.above;  // of those inside the bin, at least one
    std::nth_element(ties, ties + (wanted - 1), ties + inside, std::greater<>());
    const uint32_t threshold = ties[wanted - 1];
    size_t equal = wanted - static_cast<size_t>(std::count_if(
                                ties, ties + inside, [&](uint32_t m) { return m > threshold; }));
    size_t taken = 0;
    for (size_t j = 0; j < n; ++j) {
      const float value = residual ? residual[found[j]] : p[found[j]];
      const uint32_t magnitude = magnitude_bits(value);
      if (magnitude < threshold || (magnitude == threshold && equal == 0)) continue;
      if (magnitude == threshold) --equal;
      values[taken] = value;
      found[taken++] = found[j];
    }
    HORA_CHECK(taken == k, fmt::format("topk chose {} of {}", taken, k));
    return found;
  }

  void write(const Turn& turn, const uint32_t* chosen, const float* values, size_t count,
             std::byte* payload, float* residual) const {
    const size_t k = kept(count);
    auto* head = reinterpret_cast<uint32_t*>(payload);
    auto* index = reinterpret_cast<uint16_t*>(payload + index_at(count));
    head[0] = static_cast<uint32_t>(k);
    for (size_t j = 0; j < k; ++j) {
      ++head[1 + chosen[j] / kSegment];
      index[j] = static_cast<uint16_t>(chosen[j] % kSegment);
    }
    std::byte* body = payload + values_at(count);
    if (!values_) {
      std::memcpy(body, values, k * sizeof(float));
      for (size_t j = 0; residual && j < k; ++j) residual[chosen[j]] = 0;
      return;
    }
    State none;
    const Turn plain{turn.step, turn.drawer, turn.workspace, 1.0f, turn.device, turn.stream};
    values_->encode(plain, {values, 0, k}, none, body);
    if (!residual) return;
    float* sent = turn.workspace.floats(kSent, k);
    std::fill_n(sent, k, 0.0f);
    const Status own = values_->decode_add(plain, {body, value_bytes(k)}, 0, {sent, k}, 1.0f);
    HORA_CHECK(own.ok(), own.message());
    for (size_t j = 0; j < k; ++j) {
      if (is_finite(sent[j])) residual[chosen[j]] -= sent[j];
    }
  }

  template <class Visit>
  static void for_each_entry(std::span<const std::byte> payload, size_t count, Visit visit) {
    const auto* head = reinterpret_cast<const uint32_t*>(payload.data());
    const auto* index = reinterpret_cast<const uint16_t*>(payload.data() + index_at(count));
    size_t j = 0;
    for (size_t segment = 0; segment < segments(count); ++segment) {
      for (uint32_t left = head[1 + segment]; left > 0; --left, ++j)
        visit(segment * kSegment + index[j], j);
    }
  }

  Status check(std::span<const std::byte> payload, size_t count) const {
    const auto* head = reinterpret_cast<const uint32_t*>(payload.data());
    if (head[0] > kept(count)) {
      return Status(Code::kCorrupt,
                    fmt::format("topk: {} entries, but at most {} of {} elements are sent", head[0],
                                kept(count), count));
    }
    uint64_t total = 0;
    for (size_t segment = 0; segment < segments(count); ++segment) total += head[1 + segment];
    if (total != head[0]) return Status(Code::kCorrupt, "topk: the segments do not add up");
    size_t next = 0;
    bool ascending = true;
    for_each_entry(payload, count, [&](size_t i, size_t) {
      ascending = ascending && i >= next && i < count;
      next = i + 1;
    });
    return ascending ? Status()
                     : Status(Code::kCorrupt, "topk: indices out of range or out of order");
  }

  const double ratio_;
  const Memory memory_;
  const std::unique_ptr<Codec> values_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding&& binding) {
  const double ratio = keys.number("ratio", 1e-9, 1);
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<TopK>(ratio, std::move(binding));
}

const RegisterStage topk({"topk", 3, {{"ratio", "0.01"}}, make});
const RegisterPreset drop({"drop", "ef+topk:ratio={ratio=1%}", "agg=gather"});

}  // namespace
}  // namespace hora
