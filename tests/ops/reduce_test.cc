// Goal: reduce() gives the bits that struct Reduction defines, on every instruction set.
// Method: each set that this machine has against a scalar definition written apart from it: all
// types, operations and scales, 1 to 9 members, odd counts, unaligned memory, in place or not,
// values of all bit patterns.

#include "ops/kernels/reduce.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "tests/support/data.h"

namespace hora {
namespace {

using support::Bytes;
using support::Values;

constexpr DType kAllDTypes[] = {DType::kUInt8,   DType::kInt8,    DType::kInt16,    DType::kInt32,
                                DType::kInt64,   DType::kFloat16, DType::kBFloat16, DType::kFloat32,
                                DType::kFloat64, DType::kBool};
constexpr ReduceOp kAllOps[] = {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin, ReduceOp::kMax,
                                ReduceOp::kProduct};

// Memory whose start is aligned for the element and for nothing more, with a guard behind it.
class Unaligned {
 public:
  Unaligned(const Bytes& content, size_t width)
      : memory_(content.size() + 64 + 2 * width + kGuard) {
    const auto start = reinterpret_cast<uintptr_t>(memory_.data());
    offset_ = (64 - start % 64) % 64 + width;
    std::fill(memory_.begin(), memory_.end(), std::byte{0xA5});
    std::copy(content.begin(), content.end(), data());
    bytes_ = content.size();
  }
  std::byte* data() { return memory_.data() + offset_; }
  Bytes content() { return Bytes(data(), data() + bytes_); }
  bool guard_intact() {
    return std::all_of(data() + bytes_, data() + bytes_ + kGuard,
                       [](std::byte b) { return b == std::byte{0xA5}; });
  }

 private:
  static constexpr size_t kGuard = 8;
  Bytes memory_;
  size_t offset_, bytes_;
};

class Reduce : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  void SetUp() override {
    if (!choose_isa(isa())) GTEST_SKIP() << "this machine has no " << isa();
    ASSERT_EQ(chosen_isa(), isa());
  }
  void TearDown() override { ASSERT_TRUE(choose_isa("auto")); }

  const char* isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }

  // In place on all members, and to one or two places elsewhere, through the cache or not.
  void check(const Reduction& reduction, size_t members, size_t count, uint64_t seed) {
    std::vector<Bytes> values;
    for (size_t r = 0; r < members; ++r) {
      values.push_back(support::make_values(dtype(), Values::kWild, count, seed * 16 + r));
    }
    const Bytes wanted = support::reduce_by_definition(reduction, values);
    const size_t width = bytes_of(dtype());
    const std::string what = std::string(isa()) + " " + std::string(name_of(reduction.op)) +
                             " of " + std::to_string(members) + " x " + std::to_string(count);

    std::vector<Unaligned> memory;
    for (const Bytes& value : values) memory.emplace_back(value, width);
    std::vector<const std::byte*> inputs;
    std::vector<std::byte*> places;
    for (Unaligned& one : memory) {
      inputs.push_back(one.data());
      places.push_back(one.data());
    }
    for (const bool streaming : {false, true}) {
      Bytes aligned(count * width);
      Unaligned odd(aligned, width);
      std::byte* const outputs[] = {aligned.data(), odd.data()};
      reduce(reduction, inputs, outputs, count, streaming);
      ASSERT_EQ(support::difference(dtype(), aligned, wanted), "") << what;
      ASSERT_EQ(support::difference(dtype(), odd.content(), wanted), "") << what;
      ASSERT_TRUE(odd.guard_intact()) << what;
    }
    reduce(reduction, inputs, places, count, seed % 2 == 0);
    for (Unaligned& one : memory) {
      ASSERT_EQ(support::difference(dtype(), one.content(), wanted), "") << what;
      ASSERT_TRUE(one.guard_intact()) << what;
    }
  }
};

TEST_P(Reduce, GivesTheDefinedBitsForOneToNineMembers) {
  uint64_t seed = 1;
  for (const ReduceOp op : kAllOps) {
    if (op == ReduceOp::kAverage && dtype() == DType::kBool) continue;
    for (size_t members = 1; members <= 9; ++members) {
      for (const size_t count : {1, 7, 67, 1031}) {
        check({dtype(), op}, members, count, ++seed);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Reduce, ScalesBeforeAndAfterWithOneRoundingEach) {
  uint64_t seed = 1000;
  for (const ReduceOp op : kAllOps) {
    if (op == ReduceOp::kAverage && dtype() == DType::kBool) continue;
    for (const auto& [before, after] :
         {std::pair{0.3, 1.0}, {1.0, 1.0 / 3}, {-1.5, 1e6}, {1024.0, -0.7}}) {
      check({dtype(), op, before, after}, 3, 1031, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Reduce, DoesNotDependOnWhereTheRangeIsCut) {
  constexpr size_t kCount = 515;
  const Bytes a = support::make_values(dtype(), Values::kWild, kCount, 1);
  const Bytes b = support::make_values(dtype(), Values::kWild, kCount, 2);
  const size_t width = bytes_of(dtype());
  const Reduction reduction{dtype(), ReduceOp::kSum};
  const Bytes wanted = support::reduce_by_definition(reduction, {a, b});
  for (const size_t piece : {1, 3, 64, 200}) {
    Bytes got(a.size());
    for (size_t i = 0; i < kCount; i += piece) {
      const std::byte* const inputs[] = {a.data() + i * width, b.data() + i * width};
      std::byte* const outputs[] = {got.data() + i * width};
      reduce(reduction, inputs, outputs, std::min(piece, kCount - i));
    }
    EXPECT_EQ(support::difference(dtype(), got, wanted), "") << piece;
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, Reduce,
                         ::testing::Combine(::testing::Values("base", "avx2", "avx512"),
                                            ::testing::ValuesIn(kAllDTypes)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  std::string(name_of(std::get<1>(test.param)));
                         });

// Through a product with 1, which no other rounding can disturb: all 2^16 patterns there and back.
TEST(ReduceConversions, KeepEveryPatternOfSixteenBits) {
  for (const char* isa : {"base", "avx2", "avx512"}) {
    if (!choose_isa(isa)) continue;
    for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
      std::vector<uint16_t> all(65536), got(65536);
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
      const std::byte* const inputs[] = {reinterpret_cast<const std::byte*>(all.data())};
      std::byte* const outputs[] = {reinterpret_cast<std::byte*>(got.data())};
      reduce({dtype, ReduceOp::kSum}, inputs, outputs, all.size());
      const int infinity = dtype == DType::kFloat16 ? 0x7C00 : 0x7F80;
      const int nan = dtype == DType::kFloat16 ? 0x7E00 : 0x7FC0;
      for (size_t i = 0; i < all.size(); ++i) {
        const int wanted = (all[i] & 0x7FFF) > infinity ? nan : all[i];
        ASSERT_EQ(got[i], wanted) << isa << " " << name_of(dtype) << " " << std::hex << i;
      }
    }
  }
  ASSERT_TRUE(choose_isa("auto"));
}

TEST(ReduceExtremes, OrderZerosBySignAndLetNanWin) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::array<float, 4> a = {0.0f, -0.0f, 1.0f, nan}, b = {-0.0f, 0.0f, nan, 1.0f};
  for (const char* isa : {"base", "avx2", "avx512"}) {
    if (!choose_isa(isa)) continue;
    for (const bool least : {true, false}) {
      std::array<float, 4> got{};
      const std::byte* const inputs[] = {reinterpret_cast<const std::byte*>(a.data()),
                                         reinterpret_cast<const std::byte*>(b.data())};
      std::byte* const outputs[] = {reinterpret_cast<std::byte*>(got.data())};
      reduce({DType::kFloat32, least ? ReduceOp::kMin : ReduceOp::kMax}, inputs, outputs, 4);
      const uint32_t zero = least ? 0x80000000u : 0u;
      const uint32_t wanted[] = {zero, zero, 0x7FC00000u, 0x7FC00000u};
      EXPECT_EQ(std::memcmp(got.data(), wanted, sizeof(wanted)), 0) << isa;
    }
  }
  ASSERT_TRUE(choose_isa("auto"));
}

TEST(ReduceIsa, RefusesANameThatNobodyKnowsAndKeepsTheChoice) {
  ASSERT_TRUE(choose_isa("base"));
  EXPECT_FALSE(choose_isa("mmx"));
  EXPECT_EQ(chosen_isa(), "base");
  ASSERT_TRUE(choose_isa("auto"));
}

}  // namespace
}  // namespace hora
