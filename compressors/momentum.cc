// `mc`: momentum correction. Momentum is accumulated before elements are selected, not after they
// were summed up, so that an element which is sent late arrives with its momentum:
//
//   u = m u + g,  v = v + u                       (Nesterov: u = m (u + g),  v = v + u + g)
//   send some of v;  v of these = 0, and with `mask` u of these = 0 (momentum factor masking)
//
// Lin et al., "Deep Gradient Compression", ICLR 2018. v is the slab "residual" of the codec inside,
// u the slab "velocity". The optimizer must have no momentum of its own. An exchange that fails
// puts what was sent back into v; the momentum of those elements begins anew.

#include <algorithm>

#include "compressors/around.h"
#include "compressors/stage.h"

namespace hora {
namespace {

class Momentum final : public Around {
 public:
  Momentum(float m, bool nesterov, bool mask, std::unique_ptr<Codec> inner)
      : Around(std::move(inner)), m_(m), nesterov_(nesterov), mask_(mask) {}

  Traits traits() const override {
    Traits traits = inner().traits();
    traits.conserves = false;
    return traits;
  }
  std::vector<SlabSpec> slabs(size_t count) const override {
    std::vector<SlabSpec> slabs = inner().slabs(count);
    slabs.push_back({"velocity", count, Law::kPending});
    return slabs;
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    float* v = slab_at(state, "residual", piece);
    float* u = slab_at(state, "velocity", piece);
    // The sum of messages has no momentum: an owner remembers what it did not send, as `ef` does.
    const bool second = turn.drawer == static_cast<uint64_t>(Drawer::kOwner);
    if (second || !v || !u) return inner().encode(turn, piece, state, payload);
    const float* before = accumulate(turn, piece, u, v);
    Turn held = turn;
    held.held = true;
    inner().encode(held, piece, state, payload);
    const std::span<const std::byte> all(payload, inner().payload_bytes(piece.count));
    const std::span<const std::byte> said = all.first(inner().used_bytes(all, piece.count));
    if (before) return restore(held, piece, said, u, v, before);
    if (!mask_) return;
    for (const uint32_t i : inner().sent(turn, said, piece.count)) u[i] = 0;
  }

 private:
  /// What u and v were, if something is not finite now; else null.
  const float* accumulate(const Turn& turn, const Piece& piece, float* u, float* v) const {
    const MomentumJob job{piece.input, u, v, piece.count, turn.input_scale, m_, nesterov_};
    const WalkKernels& walks = host_walks();
    float* before = nullptr;
    if (!adds_safely(walks.momentum_peak(job))) {
      before = turn.workspace.floats(Workspace::kMemory, 2 * piece.count);
      std::copy_n(u, piece.count, before);
      std::copy_n(v, piece.count, before + piece.count);
    }
    walks.momentum(job);
    return before && poisoned({v}, piece.count) ? before : nullptr;
  }

  /// Where the payload decodes to a NaN, nothing has happened to u and v.
  void restore(const Turn& turn, const Piece& piece, std::span<const std::byte> payload, float* u,
               float* v, const float* before) const {
    float* said = turn.workspace.floats(Workspace::kTakeBack, piece.count);
    std::fill_n(said, piece.count, 0.0f);
    const Status own = decode_add(turn, payload, piece.first, {said, piece.count}, 1.0f);
    HORA_CHECK(own.ok(), own.message());
    for (size_t i = 0; i < piece.count; ++i) {
      if (is_finite(said[i])) continue;
      u[i] = before[i];
      v[i] = before[piece.count + i];
    }
  }

  const float m_;
  const bool nesterov_, mask_;
};

bool flag(Keys& keys, const char* key) {
  return keys.choice(key, {"true", "false"}) == "true";
}

std::unique_ptr<Codec> around(Keys& keys, std::unique_ptr<Codec> inner) {
  const auto m = static_cast<float>(keys.number("m", 0, 1));
  const bool nesterov = flag(keys, "nesterov"), mask = flag(keys, "mask");
  if (inner->traits().linear) keys.refuse("a chain whose payloads are sums cannot hold momentum");
  if (mask && !inner->traits().sparse)
    keys.refuse("mask needs a selection such as topk; write mask=false");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<Momentum>(m, nesterov, mask, std::move(inner));
}

const RegisterStage mc(
    {.name = "mc",
     .order = Order::kMemory,
     .what = "momentum correction, in the place of the optimizer's momentum (Lin et al. 2018)",
     .keys = {{"m", "0.9", "0 to 1: the momentum"},
              {"mask", "true", "what is sent loses its momentum"},
              {"nesterov", "false", "Nesterov's momentum"}},
     .remember = [](Keys&, Memory& memory) { memory.feedback = true; },
     .around = around});

}  // namespace
}  // namespace hora
