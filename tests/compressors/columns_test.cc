// Goal: the columns, or rows, that weigh most are sent whole, by their numbers, and nothing else.
// Method: matrices in which few columns are not zero, ties, and payloads with damaged numbers.

#include <cstring>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

constexpr size_t kRows = 5, kColumns = 40;

/// What arrives of a matrix, and what is owed.
struct Outcome {
  std::vector<float> sent, owed;
  size_t bytes;
};
Outcome send(const std::string& text, const std::vector<float>& g) {
  Trial run(text, g.size());
  run.codec = run.config.codec({5, kRows, kColumns}).value();
  const auto payload = run.encode(g);
  return {run.decode(payload), run.residual(), payload.size()};
}

std::vector<float> with(std::initializer_list<size_t> columns) {
  std::vector<float> g(kRows * kColumns);
  for (const size_t c : columns)
    for (size_t r = 0; r < kRows; ++r) g[r * kColumns + c] = static_cast<float>(1 + r + c);
  return g;
}

TEST(Columns, ThoseThatAreNotZeroArriveWhole) {
  const auto g = with({3, 17, 39});
  const Outcome got = send("noef+columns:ratio=7.5%", g);
  EXPECT_EQ(got.sent, g);
  EXPECT_EQ(got.bytes, 4u + 3 * 4 + 3 * kRows * 4);  // how many, numbers, values
}

TEST(Columns, TheLargestSumIsSentAndTheRestIsOwed) {
  auto g = with({3, 17});
  const Outcome got = send("ef+columns:ratio=2.5%", g);
  EXPECT_EQ(got.sent, with({17}));
  EXPECT_EQ(got.owed, with({3}));
}

TEST(Columns, TiesGoToTheLowerNumber) {
  std::vector<float> ones(kRows * kColumns, -1.0f);
  const Outcome got = send("noef+columns:ratio=5%", ones);
  for (size_t i = 0; i < ones.size(); ++i) EXPECT_EQ(got.sent[i], i % kColumns < 2 ? -1 : 0);
}

TEST(Columns, OfTheFirstAxisAreRows) {
  std::vector<float> g(kRows * kColumns);
  for (size_t i = 2 * kColumns; i < 3 * kColumns; ++i) g[i] = static_cast<float>(i);
  const Outcome got = send("noef+columns:ratio=20%,axis=0", g);
  EXPECT_EQ(got.sent, g);
  EXPECT_EQ(got.bytes, 4u + 4 + kColumns * 4);
}

TEST(Columns, NumbersOutOfRangeOrOutOfOrderAreRefused) {
  Trial run("noef+columns:ratio=7.5%", kRows * kColumns);
  run.codec = run.config.codec({5, kRows, kColumns}).value();
  const auto good = run.encode(with({3, 17, 39}));
  for (const uint32_t number : {40u, 3u, 2u, ~0u}) {
    auto bad = good;
    std::memcpy(bad.data() + 8, &number, 4);  // the second of 3
    std::vector<float> sum(kRows * kColumns);
    EXPECT_EQ(run.codec->decode_add(run.turn(), bad, 0, sum, 1).code(), Code::kCorrupt) << number;
    EXPECT_EQ(sum, std::vector<float>(kRows * kColumns));
  }
  auto bad = good;
  const uint32_t half = 2 * kRows + 1;
  std::memcpy(bad.data(), &half, 4);
  std::vector<float> sum(kRows * kColumns);
  EXPECT_EQ(run.codec->decode_add(run.turn(), bad, 0, sum, 1).code(), Code::kCorrupt);
}

}  // namespace
}  // namespace hora
