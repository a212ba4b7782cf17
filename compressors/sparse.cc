#include "compressors/sparse.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace hora {
namespace {

constexpr uint32_t kPoisonedHead = ~0u;

class Sparse final : public Codec {
 public:
  Sparse(std::unique_ptr<Selector> selector, Binding& binding)
      : Codec(binding.extent),
        selector_(std::move(selector)),
        code_(binding.code ? std::move(binding.code) : make_u16()),
        memory_(binding.memory),
        values_(std::move(binding.inner)),
        varies_(selector_->varies() || (values_ && values_->traits().varies)) {}

  Traits traits() const override {
    const bool values_contract = !values_ || values_->traits().contractive;
    return {.contractive = selector_->contractive() && values_contract,
            .exact_values = values_ == nullptr,
            .sparse = true,
            .conserves = memory_.conserves(),
            .varies = varies_,
            .draws = values_ ? values_->traits().draws : Draws::kNone};
  }
  size_t granule() const override { return selector_->granule(); }
  size_t payload_bytes(size_t count) const override {
    return count == 0 ? 0 : room_for(count, selector_->most(count));
  }
  size_t used_bytes(std::span<const std::byte> payload, size_t count) const override {
    if (varies_ && count == 0) return 0;
    if (!varies_ || payload.size() < sizeof(uint32_t)) return payload.size();
    const size_t used = entries(head_of(payload));
    if (used > selector_->most(count)) return payload.size();
    payload = payload.first(std::min(payload.size(), room_for(count, used)));
    const size_t at = values_at(count, used);
    if (!values_ || payload.size() < at) return payload.size();
    return at + values_->used_bytes(payload.subspan(at), used);
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    Source source = source_of(turn, piece, state, memory_);
    uint32_t* chosen = indices(turn, selector_->most(piece.count));
    const size_t used = selector_->choose(turn.workspace, source, piece.count, chosen);
    const bool poisoned = used == Selector::kPoisoned;
    const uint32_t head = poisoned ? kPoisonedHead : static_cast<uint32_t>(used);
    std::memset(payload, 0,
                varies_ ? room_for(piece.count, entries(head)) : payload_bytes(piece.count));
    std::memcpy(payload, &head, sizeof(head));
    if (poisoned) return;
    float* values = turn.workspace.floats(Workspace::kValues, used + 1);
    for (size_t j = 0; j < used; ++j) values[j] = source[chosen[j]];
    if (!source.is_settled() && source.residual) read(source, piece.count, source.residual);
    code_->write({chosen, used}, piece.count, payload + sizeof(head));
    write_values(turn, {chosen, used}, values, payload + values_at(piece.count, used),
                 source.residual);
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t,
                    std::span<float> sum, float scale) const override {
    const size_t count = sum.size();
    HORA_TRY(check_size(payload, count));
    if (count == 0) return {};
    const uint32_t head = head_of(payload);
    if (head == kPoisonedHead) {
      for (float& element : sum) element += float_of(kPoison);
      return {};
    }
    const std::span<uint32_t> chosen(indices(turn, head), head);
    if (!read_indices(payload, count, chosen))
      return Status(Code::kCorrupt, "sparse: indices out of range or out of order");
    std::span<const float> values;
    HORA_TRY(read_values(turn, payload.subspan(values_at(count, head)), head, values));
    for (size_t j = 0; j < head; ++j) sum[chosen[j]] += scale * values[j];
    return {};
  }

  std::span<const uint32_t> sent(const Turn& turn, std::span<const std::byte> payload,
                                 size_t count) const override {
    if (count == 0 || head_of(payload) == kPoisonedHead) return {};
    const std::span<uint32_t> chosen(indices(turn, head_of(payload)), head_of(payload));
    HORA_CHECK(read_indices(payload, count, chosen), "a payload of this rank's own");
    return chosen;
  }
  size_t most_sent(size_t count) const override { return count == 0 ? 0 : selector_->most(count); }

 private:
  static uint32_t head_of(std::span<const std::byte> payload) {
    uint32_t head;
    std::memcpy(&head, payload.data(), sizeof(head));
    return head;
  }
  static uint32_t* indices(const Turn& turn, size_t most) {
    return reinterpret_cast<uint32_t*>(
        turn.workspace.memory(Workspace::kChosen, (most + 1) * sizeof(uint32_t)));
  }
  Status check_size(std::span<const std::byte> payload, size_t count) const {
    const bool headless = count == 0 || payload.size() < sizeof(uint32_t);
    const size_t used = headless ? 0 : entries(head_of(payload));
    if (!headless && used > selector_->most(count)) {
      return Status(Code::kCorrupt, fmt::format("sparse: {} entries, but at most {} of {} are sent",
                                                used, selector_->most(count), count));
    }
    const size_t most = varies_ && count > 0 ? room_for(count, used) : payload_bytes(count);
    const bool shorter = varies_ && !headless && values_ && values_->traits().varies;
    const size_t least = shorter ? values_at(count, used) : most;
    if (least <= payload.size() && payload.size() <= most) return {};
    return Status(Code::kCorrupt,
                  fmt::format("sparse: payload has {} bytes for {} elements, not {}{}",
                              payload.size(), count, shorter ? "up to " : "", most));
  }

  static size_t entries(uint32_t head) { return head == kPoisonedHead ? 0 : head; }

  /// Bytes of indices; what varies has room for those `used` only.
  size_t index_bytes(size_t count, size_t used) const {
    return code_->bytes(count, varies_ ? used : selector_->most(count));
  }
  size_t values_at(size_t count, size_t used) const {
    return sizeof(uint32_t) + index_bytes(count, used);
  }
  size_t room_for(size_t count, size_t used) const {
    return values_at(count, used) + value_bytes(used);
  }
  size_t value_bytes(size_t used) const {
    return values_ ? values_->payload_bytes(used) : used * sizeof(float);
  }

  bool read_indices(std::span<const std::byte> payload, size_t count,
                    std::span<uint32_t> chosen) const {
    const std::span<const std::byte> coded =
        payload.subspan(sizeof(uint32_t), index_bytes(count, chosen.size()));
    if (!code_->read(coded, count, chosen)) return false;
    uint64_t next = 0;
    bool ascending = true;
    for (const uint32_t i : chosen) {
      ascending = ascending && i >= next;
      next = uint64_t{i} + 1;
    }
    return ascending && next <= count;
  }

  /// The memory already holds everything that was to be sent.
  void write_values(const Turn& turn, std::span<const uint32_t> chosen, const float* values,
                    std::byte* body, float* residual) const {
    const size_t used = chosen.size();
    if (!values_) {
      std::memcpy(body, values, used * sizeof(float));
      for (size_t j = 0; residual && j < used; ++j) residual[chosen[j]] = 0;
      return;
    }
    State none;
    const Turn plain{turn.step, turn.drawer, turn.workspace, 1.0f, turn.device, turn.stream};
    values_->encode(plain, {values, 0, used}, none, body);
    if (!residual) return;
    float* sent = turn.workspace.floats(Workspace::kSent, used + 1);
    std::fill_n(sent, used, 0.0f);
    const std::span<const std::byte> room(body, value_bytes(used));
    const std::span<const std::byte> said = room.first(values_->used_bytes(room, used));
    const Status own = values_->decode_add(plain, said, 0, {sent, used}, 1.0f);
    HORA_CHECK(own.ok(), own.message());
    for (size_t j = 0; j < used; ++j) {
      if (is_finite(sent[j])) residual[chosen[j]] -= sent[j];
    }
  }

  Status read_values(const Turn& turn, std::span<const std::byte> body, size_t used,
                     std::span<const float>& values) const {
    if (values_) {
      float* decoded = turn.workspace.floats(Workspace::kSent, used + 1);
      std::fill_n(decoded, used, 0.0f);
      values = {decoded, used};
      if (!varies_) body = body.first(value_bytes(used));
      return values_->decode_add(turn, body, 0, {decoded, used}, 1.0f);
    }
    values = {reinterpret_cast<const float*>(body.data()), used};
    for (const float value : values) {
      if (!is_finite(value)) return Status(Code::kCorrupt, "sparse: a value is not finite");
    }
    return {};
  }

  const std::unique_ptr<Selector> selector_;
  const std::unique_ptr<IndexCode> code_;
  const Memory memory_;
  const std::unique_ptr<Codec> values_;
  const bool varies_;
};

}  // namespace

std::unique_ptr<Codec> make_sparse(std::unique_ptr<Selector> selector, Binding& binding) {
  return std::make_unique<Sparse>(std::move(selector), binding);
}

}  // namespace hora
