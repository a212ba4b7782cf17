#pragma once

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compressors/chain.h"
#include "compressors/heap_workspace.h"

namespace hora {

/// Values over many magnitudes, of both signs.
inline std::vector<float> gradient(size_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(engine) * std::exp(normal(engine));
  return values;
}

/// One codec, one state, one step after another.
struct Trial {
  explicit Trial(const std::string& text, size_t count, uint64_t id = 5) : extent{id, 1, count} {
    const auto parsed = ChainConfig::parse(text);
    EXPECT_TRUE(parsed.ok()) << text << ": " << parsed.status().message();
    config = parsed.value();
    codec = config.codec(extent, 0, &until).value();
    state = make_state(*codec, 0, count);
  }
  Turn turn(uint64_t drawer = 0, float input_scale = 1) {
    return {context, drawer, workspace, input_scale};
  }
  /// Exchange number `step` begins: some chains have a codec for some steps only.
  void begin(uint64_t step) {
    if (step < from || step >= until) codec = config.codec(extent, step, &until).value();
    from = context.step = step;
  }
  std::vector<std::byte> encode(std::span<const float> g, uint64_t step = 0, uint64_t drawer = 0) {
    begin(step);
    asked.assign(g.begin(), g.end());
    std::vector<std::byte> payload(codec->payload_bytes(g.size()));
    codec->encode(turn(drawer), {g.data(), 0, g.size()}, state, payload.data());
    payload.resize(codec->used_bytes(payload, g.size()));
    return payload;
  }
  /// The exchange of a single rank: rounds go on, and the memory is settled.
  std::vector<float> decode(std::vector<std::byte> payload) {
    std::vector<float> out(extent.count());
    const Piece piece{asked.data(), 0, extent.count()};
    if (!codec->traits().linear) {
      EXPECT_TRUE(codec->decode_add(turn(), payload, 0, out, 1.0f).ok());
      return out;
    }
    for (int round = 1; round < codec->rounds(); ++round) {
      std::vector<std::byte> next(codec->round_bytes(round, piece.count, context.size));
      codec->next(turn(), piece, state, payload.data(), next.data());
      payload = std::move(next);
    }
    EXPECT_TRUE(codec->finish(turn(), piece, state, payload, out.data(), 1.0f).ok());
    return out;
  }
  std::vector<float> residual() {
    const float* e = state.find("residual");
    return e ? std::vector<float>(e, e + extent.count()) : std::vector<float>();
  }

  Extent extent;
  StepContext context{.seed = 42};
  HeapWorkspace workspace;
  ChainConfig config;
  std::unique_ptr<Codec> codec;
  State state;
  uint64_t from = 0, until = 0;  ///< the steps that the codec is for
  std::vector<float> asked;      ///< of the last encode
};

inline std::string identifier(std::string text) {
  for (char& c : text) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return text;
}

/// Every preset, every stage with its standard keys, every quantizer, and combinations.
std::vector<std::string> all_chains();

}  // namespace hora
