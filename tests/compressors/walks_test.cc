// Goal: walks over a piece and products of its rows say the same on every instruction set, and what
// is written to the memory on the first way through is never to be taken back.
// Method: against plain loops, at lengths that fill no vector; numbers next to the largest float.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "compressors/largest.h"
#include "compressors/level_words.h"
#include "compressors/registry.h"
#include "compressors/sparse.h"
#include "compressors/vectors.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

using Values = std::vector<float>;
constexpr float kMost = std::numeric_limits<float>::max();

/// Calls check(name) with each instruction set that this machine has.
template <class Check>
void on_every_isa(Check check) {
  for (const char* isa : {"base", "warp", "avx2", "avx512"}) {
    if (choose_kernel_isa(isa)) check(isa);
  }
  ASSERT_TRUE(choose_kernel_isa("auto"));
}

Values sum_of(const Source& source, size_t count) {
  Values p(count);
  for (size_t i = 0; i < count; ++i) p[i] = source[i];
  return p;
}

TEST(Walks, FindReadAndSettleTheSameOnEveryInstructionSet) {
  for (const size_t count : {1u, 63u, 64u, 65u, 1000u, 16400u}) {
    Values g = gradient(count, 1), owed = gradient(count, 2);
    // Zeros of either sign are neither above nor below.
    for (size_t i = 5; i < count; i += 11) g[i] = owed[i] = i % 2 ? 0.0f : -0.0f;
    on_every_isa([&](const std::string& isa) {
      Values e = owed, read(count);
      const Source source{g.data(), e.data(), 0.5f, 0.75f};
      const Values p = sum_of(source, count);
      uint32_t peak = 0;
      size_t above = 0, below = 0;
      std::vector<uint32_t> expected;
      for (uint32_t i = 0; i < count; ++i) {
        peak = std::max(peak, magnitude_bits(p[i]));
        if (p[i] >= 0.7f || p[i] <= -1.2f) expected.push_back(i);
        above += p[i] > 0;
        below += p[i] < 0;
      }
      const WalkKernels& walks = host_walks();
      EXPECT_EQ(walks.peak(source, count), peak) << isa << " " << count;
      EXPECT_EQ(walks.read(source, count, read.data()), peak);
      EXPECT_EQ(read, p);
      for (const bool settles : {false, true}) {
        std::vector<uint32_t> found(count + kScanSlack);
        Values numbers(count + kScanSlack);
        const Scanned scanned = walks.scan({source,
                                            count,
                                            {bits_of(0.7f), bits_of(1.2f)},
                                            found.data(),
                                            numbers.data(),
                                            count,
                                            settles});
        found.resize(scanned.found);
        EXPECT_EQ(found, expected) << isa << " " << count;
        for (size_t j = 0; j < found.size(); ++j) ASSERT_EQ(numbers[j], p[found[j]]) << isa;
        EXPECT_EQ(scanned.above, above);
        EXPECT_EQ(scanned.below, below);
        EXPECT_FALSE(scanned.poisoned || scanned.overflow);
        EXPECT_EQ(e, settles ? p : owed) << isa << " " << count;
      }
    });
  }
}

TEST(Walks, AScanWithoutRoomSaysSoAndSettlesTheRest) {
  constexpr size_t kCount = 5000;
  const Values g = gradient(kCount, 3);
  on_every_isa([&](const std::string& isa) {
    Values e(kCount);
    std::vector<uint32_t> found(10 + kScanSlack);
    Values numbers(10 + kScanSlack);
    const Scanned scanned = host_walks().scan(
        {{g.data(), e.data(), 1, 1}, kCount, {0, 0}, found.data(), numbers.data(), 10, true});
    EXPECT_TRUE(scanned.overflow) << isa;
    EXPECT_EQ(e, g) << isa;
  });
}

TEST(Walks, MomentumIsThePapersOnEveryInstructionSet) {
  constexpr size_t kCount = 1001;
  const Values g = gradient(kCount, 4), before = gradient(kCount, 5);
  for (const bool nesterov : {false, true}) {
    on_every_isa([&](const std::string& isa) {
      Values u = before, v = before;
      const MomentumJob job{g.data(), u.data(), v.data(), kCount, 0.5f, 0.75f, nesterov};
      const uint32_t peak = host_walks().momentum_peak(job);
      EXPECT_EQ(u, before);
      host_walks().momentum(job);
      uint32_t most = 0;
      for (size_t i = 0; i < kCount; ++i) {
        const float x = 0.5f * g[i];
        const float now = nesterov ? 0.75f * (before[i] + x) : 0.75f * before[i] + x;
        const float step = nesterov ? now + x : now;
        most = std::max(most, magnitude_bits(step));
        ASSERT_EQ(u[i], now) << isa << " " << i;
        ASSERT_EQ(v[i], before[i] + step) << isa << " " << i;
      }
      EXPECT_EQ(peak, most) << isa;
    });
  }
}

/// Up or down by chance, and as often as the value says; the largest floats do not become infinite.
TEST(Walks, HalvesAreRoundedAtRandomTheSameOnEveryInstructionSet) {
  constexpr size_t kCount = 5003;
  Values x = gradient(kCount, 9);
  x[7] = kMost;
  const uint64_t first = (uint64_t{1} << 32) - 100;  // the key changes on the way
  on_every_isa([&](const std::string& isa) {
    std::vector<uint16_t> halves(kCount);
    host_walks().round_halves(x.data(), kCount, {1, 2}, first, halves.data());
    for (size_t i = 0; i < kCount; ++i) {
      const uint32_t down = bits_of(x[i]) >> 16, dither = bits_of(x[i]) & 0xFFFFu;
      const Key key = key_at({1, 2}, first + i);
      const uint32_t drawn = random_bits(key, static_cast<uint32_t>(first + i)) & 0xFFFFu;
      const bool up = dither + drawn > 0xFFFFu && i != 7;
      ASSERT_EQ(halves[i], down + (up ? 1 : 0)) << isa << " " << i;
    }
  });
}

TEST(Walks, SquaresAddInOneOrderAndClampingIsExactOnEveryInstructionSet) {
  for (const size_t count : {1u, 15u, 16u, 17u, 1001u}) {
    const Values x = gradient(count, 10);
    std::vector<double> sums(16);
    for (size_t i = 0; i < count; ++i) {
      const double value = 0.3f * x[i];
      sums[i % 16] += value * value;
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    }
    on_every_isa([&](const std::string& isa) {
      EXPECT_EQ(host_walks().squares(x.data(), count, 0.3f), sums[0]) << isa << " " << count;
      Values to(count);
      host_walks().clamp(x.data(), count, 0.3f, 0.25f, to.data());
      for (size_t i = 0; i < count; ++i)
        ASSERT_EQ(to[i], std::clamp(0.3f * x[i], -0.25f, 0.25f)) << isa << " " << i;
    });
  }
}

/// Two blocks of one piece, the second from the middle of a tile on; sums as of three ranks that
/// say the same.
TEST(Walks, LevelsArePackedAddedAndTakenTheSameOnEveryInstructionSet) {
  constexpr size_t kRow = 5 * kLanes, kCount = 1001;
  constexpr WordLayout kLayout{5, 12};
  const Values x = gradient(kRow + kCount, 11), owed = gradient(kCount, 12);
  for (const bool random : {false, true}) {
    const uint64_t first = (uint64_t{1} << 32) - 320;  // the key changes on the way
    const LevelBlock block{5, kCount, kLayout, 0.5f, 3};
    const LevelJob job{block, x.data() + kRow, first, 0.75f, 2.0f, random, {1, 2}};
    on_every_isa([&](const std::string& isa) {
      std::vector<uint64_t> words(kLanes * 4);
      Values residual = owed, sum = owed;
      host_levels().write(job, words.data());
      host_levels().take(job, residual.data());
      for (uint64_t& word : words) word *= 3;
      host_levels().add(block, words.data(), 3, 0.25f, sum.data());
      for (size_t i = 0; i < kCount; ++i) {
        const size_t row = 5 + i / kLanes;
        const Key key = key_at({1, 2}, first + i);
        const uint32_t drawn = random_bits(key, static_cast<uint32_t>(first + i));
        const float dither = random ? unit_interval(drawn) : 0.5f;
        const float place = std::clamp(0.75f * x[kRow + i] * 2.0f + 3.0f + dither, 0.0f, 6.0f);
        const float value = (std::floor(place) - 3.0f) * 0.5f;
        const uint64_t word = words[row / 12 * kLanes + i % kLanes] >> (row % 12 * 5) & 31;
        ASSERT_EQ(word, 3 * static_cast<uint64_t>(place)) << isa << " " << i;
        ASSERT_EQ(residual[i], owed[i] - value) << isa << " " << i;
        ASSERT_EQ(sum[i], owed[i] + 0.25f * (3 * (std::floor(place) - 3.0f) * 0.5f)) << isa;
      }
    });
  }
}

TEST(Walks, ProductsAddInOneOrderOnEveryInstructionSet) {
  constexpr size_t kStride = 150;
  for (const size_t count : {1u, 15u, 16u, 17u, 64u, 149u}) {
    for (const size_t rank : {1u, 2u, 3u, 5u, 8u, 15u}) {
      const Values x = gradient(count, 6), rows = gradient(rank * kStride, 7);
      const Values scales = gradient(rank, 8);
      on_every_isa([&](const std::string& isa) {
        Values sums(rank * kSide, 1.0f), to = x, expected(rank * kSide, 1.0f), added = x;
        host_vectors().add_products(x.data(), rows.data(), kStride, rank, count, sums.data());
        host_vectors().add_rows(scales.data(), rows.data(), kStride, rank, count, to.data());
        for (size_t k = 0; k < rank; ++k) {
          for (size_t i = 0; i < count; ++i) {
            expected[k * kSide + i % kSide] += x[i] * rows[k * kStride + i];
            added[i] += scales[k] * rows[k * kStride + i];
          }
        }
        EXPECT_EQ(sums, expected) << isa << " " << count << " " << rank;
        EXPECT_EQ(to, added) << isa << " " << count << " " << rank;
      });
    }
  }
}

TEST(Settle, WritesTheNumbersAndTakesTheResidualForThem) {
  const Values g = gradient(1000, 1), owed = gradient(1000, 2);
  Values e = owed;
  Source source{g.data(), e.data(), 0.5f, 1.0f};
  const Values p = sum_of(source, g.size());
  ASSERT_TRUE(settle(source, g.size()));
  EXPECT_EQ(e, p);
  EXPECT_TRUE(source.is_settled());
  ASSERT_TRUE(settle(source, g.size()));
  EXPECT_EQ(e, p);
}

/// The largest float stays itself when less than half of its last place is added to it.
TEST(Settle, SeesTheOverflowOfASumBeforeItWrites) {
  const struct {
    float gradient, owed, decay;
    bool finite;
  } cases[] = {{0x1.fffffep+102f, kMost, 1, true},
               {0x1p+103f, kMost, 1, false},
               {0x1p+103f, -kMost, 1, true},
               {kMost, kMost, 1, false},
               {kMost, 1, 1, true},
               {1, kMost, 2, false},
               {std::nanf(""), 0, 1, false},
               {-INFINITY, 1, 1, false}};
  for (const auto& c : cases) {
    for (const size_t at : {0u, 699u}) {
      Values g(700, 1.0f), e(700, 3.0f);
      g[at] = c.gradient;
      e[at] = c.owed;
      const Values before = e;
      Source source{g.data(), e.data(), 1.0f, c.decay};
      ASSERT_EQ(settle(source, g.size()), c.finite) << c.gradient << " " << c.owed;
      if (!c.finite) {
        ASSERT_EQ(e, before) << c.gradient << " " << c.owed;
      }
    }
  }
}

TEST(Settle, ASelectionAndMomentumLeaveTheMemoryOfAnOverflowAlone) {
  for (const char* chain : {"ef+topk:ratio=10%", "ef+columns", "ef+proportion:pi=16", "dgc"}) {
    constexpr size_t kCount = 20000;
    Trial run(chain, kCount);
    Values g(kCount, kMost / 4);
    for (uint64_t step = 0; step < 8; ++step) {
      const Values before = run.residual();
      const auto payload = run.encode(g, step);
      if (run.codec->rounds() > 1) continue;
      const Values sent = run.decode(payload), after = run.residual();
      for (size_t i = 0; i < kCount; ++i) {
        ASSERT_TRUE(is_finite(after[i])) << chain << " " << step;
        if (!is_finite(sent[i])) {
          ASSERT_EQ(after[i], before[i]) << chain << " " << step;
        }
      }
    }
  }
}

TEST(Settle, TopKWithAMemoryIsExactOverManyPieces) {
  constexpr size_t kCount = 70001;
  Trial run("ef+topk:ratio=0.5%", kCount);
  Values owed(kCount);
  for (uint32_t step = 0; step < 3; ++step) {
    const Values g = gradient(kCount, step);
    const Values sent = run.decode(run.encode(g, step));
    float least = kMost, most = 0;
    for (size_t i = 0; i < kCount; ++i) {
      const float p = g[i] + owed[i];
      ASSERT_TRUE(sent[i] == 0 || sent[i] == p) << i;
      if (sent[i] != 0)
        least = std::min(least, std::fabs(p));
      else
        most = std::max(most, std::fabs(p));
      owed[i] = sent[i] != 0 ? 0 : p;
    }
    EXPECT_GE(least, most);
    EXPECT_EQ(std::count_if(sent.begin(), sent.end(), [](float x) { return x != 0; }), 351);
    EXPECT_EQ(run.residual(), owed);
  }
}

}  // namespace
}  // namespace hora
