// Goal: every codec keeps the promises of codec.h and of its own traits. Nothing here names an
// algorithm: a new stage, preset or quantizer is tested by existing.
// Method: run each chain over sizes that hurt; a trait that is declared is tested.

#include <algorithm>
#include <cstring>

#include "compressors/convert.h"
#include "compressors/registry.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

double squared(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return sum;
}

float peak(std::span<const float> x) {
  float most = 0;
  for (const float v : x) most = std::max(most, std::fabs(v));
  return most;
}

const size_t kSizes[] = {0, 1, 7, 31, 32, 33, 511, 512, 513, 1025, 5000, 70000};

class CodecTest : public testing::TestWithParam<std::string> {};

TEST_P(CodecTest, WritesExactlyTheBytesItPromised) {
  for (const size_t count : kSizes) {
    Trial run(GetParam(), count);
    const size_t bytes = run.codec->payload_bytes(count);
    for (const auto fill : {std::byte{0xA5}, std::byte{0x5A}}) {
      std::vector<std::byte> payload(bytes + 64, fill);
      const auto g = gradient(count, 1);
      run.codec->encode(run.turn(), {g.data(), 0, count}, run.state, payload.data());
      for (size_t i = bytes; i < payload.size(); ++i) ASSERT_EQ(payload[i], fill) << count;
    }
  }
}

TEST_P(CodecTest, APayloadSaysItselfWhereItEnds) {
  for (const size_t count : kSizes) {
    Trial run(GetParam(), count);
    const Traits traits = run.codec->traits();
    EXPECT_FALSE(traits.varies && (traits.linear || traits.votes)) << "these lie in step";
    const auto payload = run.encode(gradient(count, 1));
    const size_t most = run.codec->payload_bytes(count);
    if (!traits.varies) ASSERT_EQ(payload.size(), most);
    ASSERT_LE(payload.size(), most);
    auto room = payload;
    for (const auto fill : {std::byte{0}, std::byte{0xA5}}) {
      room.resize(payload.size());
      ASSERT_EQ(run.codec->used_bytes(room, count), room.size());
      room.resize(traits.varies ? most + 8 : most, fill);
      ASSERT_EQ(run.codec->used_bytes(room, count), payload.size()) << count;
    }
  }
}

// p == decoded + e', to the bit where values travel exactly, else to an ulp of the larger term.
TEST_P(CodecTest, WhatIsSentPlusWhatIsOwedIsWhatWasAsked) {
  for (const size_t count : kSizes) {
    Trial run(GetParam(), count);
    if (!run.codec->traits().conserves) continue;
    const bool rotates = GetParam().find("hadamard") != std::string::npos ||
                         GetParam().find("basis") != std::string::npos;
    const bool exact = run.codec->traits().exact_values;
    for (uint64_t step = 0; step < 3; ++step) {
      const auto g = gradient(count, static_cast<uint32_t>(step));
      const auto before = run.residual();
      const auto sent = run.decode(run.encode(g, step));
      const auto after = run.residual();
      const float all = peak(g);
      for (size_t i = 0; i < count; ++i) {
        const float p = g[i] + before[i], got = sent[i] + after[i];
        // A transform rounds sums of its whole block.
        const float most = rotates ? all : std::max(std::fabs(p), std::fabs(sent[i]));
        const float allowed = exact ? 0 : (rotates ? 2e-6f : 2.4e-7f) * most;
        // A macro for each of some ten million elements would take most of the suite's time.
        if (!(std::fabs(p - got) <= allowed)) ASSERT_NEAR(p, got, allowed) << count << " " << i;
      }
    }
  }
}

TEST_P(CodecTest, TakingAPayloadBackRestoresWhatWasAsked) {
  for (const size_t count : {size_t{1}, size_t{700}, size_t{5000}}) {
    Trial run(GetParam(), count);
    if (!run.codec->traits().conserves || run.codec->traits().linear) return;
    run.encode(gradient(count, 1), 0);
    const auto before = run.residual(), g = gradient(count, 2);
    const auto payload = run.encode(g, 1);
    run.codec->take_back(run.turn(), {nullptr, 0, count}, run.state, payload);
    const auto after = run.residual();
    for (size_t i = 0; i < count; ++i) {
      const float p = g[i] + before[i];
      ASSERT_NEAR(after[i], p, 1e-5f * (1 + std::fabs(p))) << i;
    }
  }
}

// Element by element a small value is sent too rarely for its variance to be estimated, so this
// looks at 64 random signed sums of the error, which are nearly normal.
TEST_P(CodecTest, UnbiasedMeansUnbiased) {
  Trial run(GetParam(), 600);
  if (!run.codec->traits().unbiased) GTEST_SKIP();
  const auto g = gradient(600, 3);
  constexpr int kDraws = 1000, kSums = 64;
  double mean[kSums] = {}, square[kSums] = {};
  std::vector<float> signs(size_t{kSums} * 600);
  for (uint32_t i = 0; i < signs.size(); ++i) signs[i] = random_bits({1, 1}, i) & 1 ? 1.0f : -1.0f;
  for (int draw = 0; draw < kDraws; ++draw) {
    const auto x = run.decode(run.encode(g, static_cast<uint64_t>(draw)));
    for (int k = 0; k < kSums; ++k) {
      double sum = 0;
      for (size_t i = 0; i < 600; ++i)
        sum += signs[static_cast<size_t>(k) * 600 + i] * (double{x[i]} - g[i]);
      mean[k] += sum / kDraws;
      square[k] += sum * sum / kDraws;
    }
  }
  for (int k = 0; k < kSums; ++k)
    EXPECT_LE(std::fabs(mean[k]), 5 * std::sqrt(square[k] / kDraws)) << k;
}

TEST_P(CodecTest, ContractiveMeansContractive) {
  for (int kind = 0; kind < 4; ++kind) {
    Trial run(GetParam(), 3000);
    if (!run.codec->traits().contractive) GTEST_SKIP();
    auto g = gradient(3000, 4);
    if (kind == 1) std::fill(g.begin(), g.end(), 2.0f);
    if (kind == 2) std::fill(g.begin(), g.end(), 0.0f), g[1234] = 5;
    for (size_t i = 0; kind == 3 && i < g.size(); ++i) g[i] = 1.0f / static_cast<float>(i + 1);
    auto lost = run.decode(run.encode(g));
    for (size_t i = 0; i < g.size(); ++i) lost[i] -= g[i];
    EXPECT_LT(squared(lost), squared(g)) << kind;
  }
}

/// Two payloads as an allreduce adds them.
std::vector<std::byte> added(DType wire, const std::vector<std::byte>& a,
                             const std::vector<std::byte>& b) {
  const size_t count = a.size() / bytes_of(wire);
  std::vector<float> x(count), y(count);
  widen(wire, a.data(), x.data(), count);
  widen(wire, b.data(), y.data(), count);
  for (size_t i = 0; i < count; ++i) x[i] += y[i];
  std::vector<std::byte> sum(a.size());
  narrow(wire, x.data(), sum.data(), count);
  return sum;
}

TEST_P(CodecTest, LinearMeansThatPayloadsMayBeAdded) {
  const Trial any(GetParam(), 1);
  if (!any.codec->traits().linear) GTEST_SKIP();
  if (any.codec->rounds() > 1) GTEST_SKIP() << "linear in each round, given the one before";
  const auto a = gradient(1000, 10), b = gradient(1000, 11);
  Trial one(GetParam(), 1000), other(GetParam(), 1000), both(GetParam(), 1000);
  const auto from_a = one.encode(a), from_b = other.encode(b);
  both.encode(a);
  const DType wire = any.codec->wire(0);
  const auto x = one.decode(from_a), y = other.decode(from_b);
  const auto sum = both.decode(added(wire, from_a, from_b));
  const float unit = wire == DType::kFloat32 ? 0x1p-23f : 0x1p-8f;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_NEAR(sum[i], x[i] + y[i], unit * (std::fabs(x[i]) + std::fabs(y[i]))) << i;
}

TEST_P(CodecTest, ResultsDoNotDependOnChunks) {
  constexpr size_t kCount = 70000;
  Trial whole(GetParam(), kCount), parts(GetParam(), kCount);
  if (whole.codec->traits().sparse) GTEST_SKIP() << "selects over the whole piece";
  if (whole.codec->rounds() > 1) GTEST_SKIP() << "takes whole tensors only";
  const auto g = gradient(kCount, 5);
  for (uint64_t step = 0; step < 2; ++step) {
    const auto expected = whole.decode(whole.encode(g, step));
    std::vector<float> got(kCount);
    parts.begin(step);
    const size_t chunk = parts.codec->granule() * 3;
    for (size_t first = 0; first < kCount; first += chunk) {
      const Piece piece{g.data() + first, first, std::min(chunk, kCount - first)};
      std::vector<std::byte> payload(parts.codec->payload_bytes(piece.count));
      parts.codec->encode(parts.turn(), piece, parts.state, payload.data());
      payload.resize(parts.codec->used_bytes(payload, piece.count));
      const std::span<float> out(got.data() + first, piece.count);
      const Piece result{nullptr, first, piece.count};
      ASSERT_TRUE(
          parts.codec->finish(parts.turn(), result, parts.state, payload, out.data(), 1.0f).ok());
    }
    ASSERT_EQ(std::memcmp(expected.data(), got.data(), kCount * 4), 0);
    ASSERT_EQ(whole.residual(), parts.residual());
  }
}

TEST_P(CodecTest, RefusesDamagedPayloadsAndLeavesTheSumAlone) {
  Trial run(GetParam(), 3000);
  const auto good = run.encode(gradient(3000, 6));
  std::mt19937 engine(7);
  int refused = 0;
  for (int trial = 0; trial < 1500; ++trial) {
    auto bad = good;
    if (trial == 0) bad.pop_back();
    if (trial == 1) bad.push_back(std::byte{0});
    for (int k = 0; trial > 1 && k < 4; ++k) {
      // Half of the damage hits the head, where counts, indices and scales are.
      const size_t range = trial % 2 == 0 ? bad.size() : std::min<size_t>(bad.size(), 64);
      bad[engine() % range] = static_cast<std::byte>(engine());
    }
    std::vector<float> sum(3000, 3.0f);
    const Status status = run.codec->decode_add(run.turn(), bad, 0, sum, 1.0f);
    if (trial < 2) {
      ASSERT_EQ(status.code(), Code::kCorrupt);
    }
    if (!status.ok()) {
      ++refused;
      ASSERT_EQ(sum, std::vector<float>(3000, 3.0f));
    }
  }
  EXPECT_GE(refused, 2);
}

TEST_P(CodecTest, RefusesEveryOtherLengthAndLeavesTheSumAlone) {
  Trial run(GetParam(), 300);
  const auto good = run.encode(gradient(300, 6));
  const size_t longest = std::max(good.size(), run.codec->payload_bytes(300)) + 9;
  std::vector<std::byte> bad = good;
  bad.resize(longest);
  for (size_t bytes = 0; bytes <= longest; ++bytes) {
    if (bytes == good.size()) continue;
    std::vector<float> sum(300, 3.0f);
    const std::span<const std::byte> cut(bad.data(), bytes);
    ASSERT_LE(run.codec->used_bytes(cut, 300), bytes);
    ASSERT_EQ(run.codec->decode_add(run.turn(), cut, 0, sum, 1.0f).code(), Code::kCorrupt) << bytes;
    ASSERT_EQ(sum, std::vector<float>(300, 3.0f)) << bytes;
  }
}

TEST_P(CodecTest, DecodesOrRefusesRandomBytesWithoutHarm) {
  std::mt19937 engine(8);
  for (const size_t count : {size_t{1}, size_t{40}, size_t{600}, size_t{70000}}) {
    Trial run(GetParam(), count);
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<std::byte> bytes(run.codec->payload_bytes(count));
      for (std::byte& b : bytes) b = static_cast<std::byte>(trial % 2 ? engine() : engine() & 3);
      const size_t used = run.codec->used_bytes(bytes, count);
      ASSERT_LE(used, bytes.size());
      bytes.resize(used);
      std::vector<float> sum(count, 3.0f);
      if (!run.codec->decode_add(run.turn(), bytes, 0, sum, 1.0f).ok()) {
        ASSERT_EQ(sum, std::vector<float>(count, 3.0f));
      }
    }
  }
}

TEST_P(CodecTest, ReloadedStateContinuesToTheBit) {
  Trial through(GetParam(), 3000);
  for (uint64_t step = 0; step < 3; ++step)
    through.encode(gradient(3000, static_cast<uint32_t>(step)), step);
  Trial resumed(GetParam(), 3000);
  resumed.state = through.state;  // plain floats by name: saving is copying
  for (uint64_t step = 3; step < 6; ++step) {
    const auto g = gradient(3000, static_cast<uint32_t>(step));
    ASSERT_EQ(through.encode(g, step), resumed.encode(g, step));
  }
}

TEST_P(CodecTest, DrawsDependOnSeedStepTensorAndDrawerOnly) {
  const auto g = gradient(3000, 8);
  const auto payload = [&](uint64_t id, uint64_t seed, uint64_t step, uint64_t drawer) {
    Trial run(GetParam(), 3000, id);
    run.context.seed = seed;
    return run.encode(g, step, drawer);
  };
  const auto one = payload(5, 42, 0, 0);
  EXPECT_EQ(one, payload(5, 42, 0, 0));
  const Trial any(GetParam(), 10);
  if (any.codec->rounds() > 1) GTEST_SKIP() << "draws only where it starts";
  if (any.until != ~uint64_t{0}) GTEST_SKIP() << "another codec in the next step";
  const Draws draws = any.codec->traits().draws;
  const bool random = draws != Draws::kNone;
  EXPECT_EQ(one != payload(6, 42, 0, 0), random);
  EXPECT_EQ(one != payload(5, 43, 0, 0), random);
  EXPECT_EQ(one != payload(5, 42, 1, 0), random);
  EXPECT_EQ(one != payload(5, 42, 0, 1), draws == Draws::kPrivate);
}

TEST_P(CodecTest, EveryInstructionSetWritesTheSameBytes) {
  std::vector<std::vector<std::byte>> payloads;
  std::vector<std::vector<float>> residuals, decoded;
  int sets = 0;
  for (const char* isa : {"warp", "base", "avx2", "avx512"}) {
    if (!choose_kernel_isa(isa)) continue;
    ++sets;
    Trial run(GetParam(), 5003);
    run.encode(gradient(5003, 1), 0);
    payloads.push_back(run.encode(gradient(5003, 2), 1));
    residuals.push_back(run.residual());
    decoded.push_back(run.decode(payloads.back()));
  }
  ASSERT_TRUE(choose_kernel_isa("auto"));
  EXPECT_GE(sets, 2);
  for (size_t i = 1; i < payloads.size(); ++i) {
    ASSERT_EQ(payloads[0], payloads[i]);
    ASSERT_EQ(residuals[0], residuals[i]);
    ASSERT_EQ(decoded[0], decoded[i]);
  }
}

TEST_P(CodecTest, NotANumberIsSeenByAllAndNothingOwedIsLost) {
  for (const float bad : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
    Trial run(GetParam(), 2000);
    run.encode(gradient(2000, 1), 0);
    const auto before = run.residual();
    auto g = gradient(2000, 2);
    g[700] = bad;
    const auto sent = run.decode(run.encode(g, 1));
    EXPECT_FALSE(is_finite(sent[700]));
    const auto after = run.residual();
    for (size_t i = 0; i < after.size(); ++i) {
      ASSERT_TRUE(is_finite(after[i])) << i;
      if (is_finite(sent[i])) continue;
      ASSERT_EQ(after[i], before[i]) << i;
    }
  }
}

TEST_P(CodecTest, InputScaleMultipliesTheGradientAlone) {
  Trial scaled(GetParam(), 1000), plain(GetParam(), 1000);
  const auto g = gradient(1000, 9);
  std::vector<float> doubled = g;
  for (float& v : doubled) v *= 2;
  scaled.encode(g), plain.encode(g);
  scaled.begin(1);
  std::vector<std::byte> a(scaled.codec->payload_bytes(1000));
  scaled.codec->encode(scaled.turn(0, 2.0f), {g.data(), 0, 1000}, scaled.state, a.data());
  a.resize(scaled.codec->used_bytes(a, 1000));
  EXPECT_EQ(a, plain.encode(doubled, 1));
}

INSTANTIATE_TEST_SUITE_P(All, CodecTest, testing::ValuesIn(all_chains()),
                         [](const auto& test) { return identifier(test.param); });

}  // namespace
}  // namespace hora
