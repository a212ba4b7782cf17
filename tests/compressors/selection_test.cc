// Goal: selections choose exactly the elements they promise, at every size and sample, and index
// codes carry any ascending choice within their room.
// Method: against a full sort; small cases by hand; random and worst choices for the codes.

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "compressors/largest.h"
#include "compressors/sparse.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

using Values = std::vector<float>;

std::vector<uint32_t> largest(const Values& g, size_t most, float floor = 0) {
  HeapWorkspace workspace;
  std::vector<uint32_t> chosen(most);
  Source source{g.data()};
  chosen.resize(choose_largest(workspace, source, g.size(), most, bits_of(floor), chosen.data()));
  return chosen;
}

/// The same by a full sort.
std::vector<uint32_t> sorted_largest(const Values& g, size_t most, float floor) {
  std::vector<uint32_t> order(g.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return std::fabs(g[a]) > std::fabs(g[b]); });
  order.resize(most);
  std::erase_if(order, [&](uint32_t i) { return std::fabs(g[i]) < floor; });
  std::sort(order.begin(), order.end());
  return order;
}

TEST(Largest, IsExactWhateverTheSampleSays) {
  for (const size_t count : {1u, 63u, 64u, 65u, 5000u, 40000u, 200001u}) {
    auto normal = gradient(count, 1);
    Values ties(count), hidden(count, 1e-3f), falling(count);
    for (size_t i = 0; i < count; ++i) {
      ties[i] = static_cast<float>(i % 7) - 3;
      falling[i] = 1 / static_cast<float>(i + 1);
      // Large numbers where a strided sample never looks.
      if (i % (count / 16384 + 1) == 1) hidden[i] = static_cast<float>(i);
    }
    for (const Values& g : {normal, ties, hidden, falling, Values(count, 0.0f)}) {
      for (const size_t most :
           {size_t{1}, count / 1000 + 1, count / 20 + 1, count / 2 + 1, count}) {
        if (most > count) continue;
        for (const float floor : {0.0f, 0.5f})
          ASSERT_EQ(largest(g, most, floor), sorted_largest(g, most, floor))
              << count << " " << most;
      }
    }
  }
}

TEST(Largest, SeesANotANumberAnywhere) {
  for (const size_t at : {0u, 63u, 64u, 49999u}) {
    auto g = gradient(50000, 2);
    g[at] = at % 2 ? std::nanf("") : -INFINITY;
    HeapWorkspace workspace;
    uint32_t chosen[1];
    Source source{g.data()};
    EXPECT_EQ(choose_largest(workspace, source, g.size(), 1, 0, chosen), Selector::kPoisoned);
  }
}

TEST(Threshold, SendsTauWithItsSignAndKeepsTheRest) {
  Trial run("strom:tau=0.5,most=100%", 5);
  const Values g = {0.75f, -0.5f, 0.25f, -2, 0};
  EXPECT_EQ(run.decode(run.encode(g)), (Values{0.5f, -0.5f, 0, -0.5f, 0}));
  EXPECT_EQ(run.residual(), (Values{0.25f, 0, 0.25f, -1.5f, 0}));
}

TEST(Threshold, WhatFindsNoRoomStaysOwed) {
  Trial run("ef+threshold:tau=1,most=40%", 5);
  const Values g = {1, 5, 2, -4, 3};
  EXPECT_EQ(run.decode(run.encode(g)), (Values{0, 5, 0, -4, 0}));
  EXPECT_EQ(run.residual(), (Values{1, 0, 2, 0, 3}));
}

TEST(Proportion, TakesItsShareOfEachSign) {
  Trial run("noef+proportion:pi=4", 12);
  // 8 positive numbers: 2 are sent; 3 negative ones: at least 1; a zero is of no sign.
  const Values g = {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -1.5f, 0};
  EXPECT_EQ(run.decode(run.encode(g)), (Values{0, 0, 0, 0, 0, 0, 7, 8, 0, -2, 0, 0}));
}

/// What `proportion` sends, by a full sort of either sign.
Values sorted_outermost(const Values& g, size_t pi) {
  Values sent(g.size());
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<size_t> order;
    for (size_t i = 0; i < g.size(); ++i) {
      if (sign * g[i] > 0) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return std::fabs(g[a]) > std::fabs(g[b]); });
    if (!order.empty()) order.resize(std::max<size_t>(1, order.size() / pi));
    for (const size_t i : order) sent[i] = g[i];
  }
  return sent;
}

TEST(Proportion, IsExactWhateverTheSampleSays) {
  for (const size_t count : {65u, 20000u, 100001u}) {
    const Values normal = gradient(count, 3);
    Values ties(count), hidden(count, 1e-3f), lonely(count), one_sided(count);
    for (size_t i = 0; i < count; ++i) {
      ties[i] = static_cast<float>(i % 7) - 3;
      one_sided[i] = std::fabs(normal[i]);
      lonely[i] = i % 1000 == 7 ? -one_sided[i] / 1024 : one_sided[i];
      // Large numbers where a strided sample never looks; far more of one sign than of the other.
      if (i % (count / std::min<size_t>(16384, count / 16)) == 1)
        hidden[i] = (i % 3 ? 1.0f : -1.0f) * static_cast<float>(i);
    }
    for (const Values& g : {normal, ties, hidden, lonely, one_sided, Values(count, -0.0f)}) {
      for (const size_t pi : {1u, 2u, 64u, 5000u}) {
        const std::string chain = "noef+proportion:pi=" + std::to_string(pi);
        Trial run(chain, count);
        ASSERT_EQ(run.decode(run.encode(g)), sorted_outermost(g, pi)) << chain << " " << count;
      }
    }
  }
}

TEST(Proportion, DrydenReconstructsTheMeansOfWhatIsSent) {
  Trial run("dryden:pi=3", 9);
  const Values g = {1, 2, 6, 8, -1, -9, 0.5f, 0.25f, 0.125f};  // 7 positive, 2 negative
  EXPECT_EQ(run.decode(run.encode(g)), (Values{0, 0, 7, 7, 0, -9, 0, 0, 0}));
  EXPECT_EQ(run.residual(), (Values{1, 2, -1, 1, -1, 0, 0.5f, 0.25f, 0.125f}));
}

TEST(RandK, AllRanksDrawTheSameAndEveryElementHasItsTurn) {
  constexpr size_t kCount = 1000;
  std::vector<int> turns(kCount);
  for (uint64_t step = 0; step < 2000; ++step) {
    Trial one("ef+randk:ratio=10%", kCount);
    const auto first = one.decode(one.encode(Values(kCount, 1.0f), step, 0));
    Trial other("ef+randk:ratio=10%", kCount);
    ASSERT_EQ(first, other.decode(other.encode(Values(kCount, 1.0f), step, 1)));
    ASSERT_EQ(std::count(first.begin(), first.end(), 1.0f), 100);
    for (size_t i = 0; i < kCount; ++i) turns[i] += first[i] == 1;
  }
  for (const int t : turns) ASSERT_NEAR(t, 200, 6 * std::sqrt(2000 * 0.1 * 0.9));
}

TEST(TopK, WarmsUpInQuarters) {
  const auto config = ChainConfig::parse("topk:ratio=0.1%,warmup=100").value();
  const Extent extent{1, 1, 65536};
  const auto at = [&](uint64_t step, uint64_t& until) {
    return (config.codec(extent, step, &until).value()->payload_bytes(65536) - 8) / 6;
  };
  uint64_t until = 0;
  const uint64_t steps[] = {0, 25, 50, 75, 100};
  const size_t kept[] = {16384, 4096, 1024, 256, 66};
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(at(steps[i], until), kept[i]);
    EXPECT_EQ(until, i < 4 ? steps[i + 1] : ~0ull);
  }
  EXPECT_EQ(at(24, until), 16384u);
}

std::vector<std::string> index_codes() {
  std::vector<std::string> names;
  for (const Stage& stage : stages()) {
    if (stage.code) names.push_back(stage.name);
  }
  return names;
}

std::unique_ptr<IndexCode> code_of(const std::string& name) {
  for (const Stage& stage : stages()) {
    if (stage.name != name) continue;
    std::map<std::string, std::string> values;
    for (const StageKey& key : stage.keys) values.emplace(key.name, key.standard);
    Keys keys(values);
    return stage.code(keys);
  }
  return nullptr;
}

class IndexCodeTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<IndexCode> code() const { return code_of(GetParam()); }
  void expect_round_trip(const std::vector<uint32_t>& chosen, size_t count, size_t most) {
    const auto c = code();
    const size_t bytes = c->bytes(count, most);
    std::vector<std::byte> payload(bytes + 16);
    c->write(chosen, count, payload.data());
    for (size_t i = bytes; i < payload.size(); ++i)
      ASSERT_EQ(payload[i], std::byte{0}) << "beyond its room: " << count << " " << most;
    payload.resize(bytes);
    std::vector<uint32_t> got(chosen.size());
    ASSERT_TRUE(c->read(payload, count, got)) << count << " " << most;
    ASSERT_EQ(got, chosen);
  }
};

TEST_P(IndexCodeTest, CarriesRandomAndWorstChoicesWithinItsRoom) {
  std::mt19937 engine(5);
  for (const size_t count : {1u, 2u, 3u, 17u, 1000u, 70000u}) {
    for (size_t most : {size_t{1}, count / 3 + 1, count / 2 + 1, count}) {
      if (most > count) continue;
      for (const size_t used : {size_t{0}, most / 2, most}) {
        std::vector<uint32_t> all(count), chosen;
        std::iota(all.begin(), all.end(), 0u);
        std::sample(all.begin(), all.end(), std::back_inserter(chosen), used, engine);
        expect_round_trip(chosen, count, most);
        // The last ones, the first and the last, every n-th: where unary parts are longest.
        expect_round_trip({all.end() - static_cast<std::ptrdiff_t>(used), all.end()}, count, most);
        for (size_t j = 0; j < used; ++j)
          chosen[j] = static_cast<uint32_t>((j + 1) * count / used - 1);
        expect_round_trip(chosen, count, most);
      }
    }
  }
}

TEST_P(IndexCodeTest, ReadsAnyBytesWithoutHarm) {
  std::mt19937 engine(6);
  for (int trial = 0; trial < 300; ++trial) {
    const size_t count = 1 + engine() % 5000, most = 1 + engine() % count;
    std::vector<std::byte> bytes(code()->bytes(count, most));
    for (std::byte& b : bytes)
      b = static_cast<std::byte>(trial % 3 ? engine() : 0xFF * (trial % 2));
    std::vector<uint32_t> chosen(engine() % (most + 1));
    (void)code()->read(bytes, count, chosen);
  }
}

INSTANTIATE_TEST_SUITE_P(All, IndexCodeTest, testing::ValuesIn(index_codes()),
                         [](const auto& test) { return test.param; });

/// Appends the lowest `count` bits of `value`, from the highest down.
void append(std::vector<uint32_t>& bits, uint32_t value, int count) {
  for (int i = count - 1; i >= 0; --i) bits.push_back(value >> i & 1);
}

TEST(IndexCodes, GapsAreTheBitsOfTheirDefinitions) {
  constexpr size_t kCount = size_t{1} << 26;
  const std::vector<uint32_t> gaps = {0,        1,        511,      512,   31 * 512, 32 * 512 + 7,
                                      33 * 512, 57 * 512, 58 * 512, 70000, 1,        (1u << 25) - 1,
                                      1u << 24, 0};
  std::vector<uint32_t> chosen, golomb, elias;
  for (uint32_t next = 0; const uint32_t gap : gaps) {
    chosen.push_back(next + gap);
    next += gap + 1;
    golomb.insert(golomb.end(), gap >> 9, 1);
    golomb.push_back(0);
    append(golomb, gap, 9);
    const int width = std::bit_width(gap + 1);
    append(elias, 0, width - 1);
    append(elias, gap + 1, width);
  }
  for (const auto& [name, bits] : {std::pair{"golomb", golomb}, std::pair{"elias", elias}}) {
    std::vector<std::byte> payload(bits.size() / 32 * 4 + 4);
    code_of(name)->write(chosen, kCount, payload.data());
    for (size_t i = 0; i < bits.size(); ++i)
      ASSERT_EQ(std::to_integer<uint32_t>(payload[i / 8]) >> (i % 8) & 1, bits[i]) << name << i;
    std::vector<uint32_t> got(chosen.size());
    ASSERT_TRUE(code_of(name)->read(payload, kCount, got)) << name;
    EXPECT_EQ(got, chosen) << name;
    payload.resize(bits.size() / 8);  // the last number's last bits are gone
    if (bits.size() % 8 != 0) {
      EXPECT_FALSE(code_of(name)->read(payload, kCount, got)) << name;
    }
  }
}

TEST(IndexCodes, TakeTheBitsTheyAreKnownFor) {
  const auto bits = [](const char* chain) {
    const auto codec = Trial(chain, 1 << 20).codec->payload_bytes(1 << 20);
    return 8.0 * static_cast<double>(codec) / 1049 - 32;  // of an index, head and all
  };
  EXPECT_NEAR(bits("topk:ratio=0.1%+u32"), 32, 0.2);
  EXPECT_NEAR(bits("topk:ratio=0.1%"), 16, 0.6);
  EXPECT_NEAR(bits("topk:ratio=0.1%+golomb:k=9"), 12, 0.2);
  EXPECT_NEAR(bits("topk:ratio=0.1%+elias"), 20.9, 0.3);
}

}  // namespace
}  // namespace hora
