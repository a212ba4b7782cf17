#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "compressors/codec.h"

namespace hora {

/// A codec that does something before another one encodes, and leaves all else to it. Payloads are
/// the inner codec's.
class Around : public Codec {
 public:
  explicit Around(std::unique_ptr<Codec> inner)
      : Codec(inner->extent()), inner_(std::move(inner)) {}

  Traits traits() const override { return inner_->traits(); }
  size_t granule() const override { return inner_->granule(); }
  size_t payload_bytes(size_t count) const override { return inner_->payload_bytes(count); }
  size_t used_bytes(std::span<const std::byte> payload, size_t count) const override {
    return inner_->used_bytes(payload, count);
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return inner_->slabs(count); }
  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    inner_->encode(turn, piece, state, payload);
  }
  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t first,
                    std::span<float> sum, float scale) const override {
    return inner_->decode_add(turn, payload, first, sum, scale);
  }
  Status vote(const std::byte* payloads, size_t stride, size_t voters, size_t count,
              std::byte* winner) const override {
    return inner_->vote(payloads, stride, voters, count, winner);
  }
  void take_back(const Turn& turn, const Piece& piece, State& state,
                 std::span<const std::byte> payload, const float* result) const override {
    inner_->take_back(turn, piece, state, payload, result);
  }
  std::span<const uint32_t> sent(const Turn& turn, std::span<const std::byte> payload,
                                 size_t count) const override {
    return inner_->sent(turn, payload, count);
  }
  Status judge(std::span<const float> sum) const override { return inner_->judge(sum); }
  size_t most_sent(size_t count) const override { return inner_->most_sent(count); }
  int rounds() const override { return inner_->rounds(); }
  DType wire(int round) const override { return inner_->wire(round); }
  bool takes_largest(int round) const override { return inner_->takes_largest(round); }
  size_t round_bytes(int round, size_t count, int ranks) const override {
    return inner_->round_bytes(round, count, ranks);
  }
  void next(const Turn& turn, const Piece& piece, State& state, const std::byte* outcome,
            std::byte* payload) const override {
    inner_->next(turn, piece, state, outcome, payload);
  }
  Status finish(const Turn& turn, const Piece& piece, State& state,
                std::span<const std::byte> outcome, float* result, float scale) const override {
    return inner_->finish(turn, piece, state, outcome, result, scale);
  }

 protected:
  const Codec& inner() const { return *inner_; }

 private:
  const std::unique_ptr<Codec> inner_;
};

}  // namespace hora
