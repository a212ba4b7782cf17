// Goal: values that travel inside of control frames become what a backend would have computed.
// Method: contributions by hand, in any order, also wrong ones; exact bytes.
#include "runtime/carried.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

namespace hora {
namespace {

std::string bytes_of(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

struct Call {
  Signature signature;
  Request request;
  std::vector<float> first, second;
  CarriedResult result;
  std::string values;

  Call() : first(2), second(1) {
    signature.shapes = {{2}, {1}};
    request.inputs = {{first.data(), {2}, DType::kFloat32, {}},
                      {second.data(), {1}, DType::kFloat32, {}}};
    request.outputs = request.inputs;
  }
  Status write(const std::vector<Rank>& ranks) {
    return result.write(request, signature, ranks, values);
  }
};

TEST(Carried, ContributionsAreReducedInOrderOfRanksIntoAllOutputs) {
  Call call;
  append_values(call.values, 4, bytes_of({1, 2, 3}));
  append_values(call.values, 1, bytes_of({1e8f, 20, 30}));
  append_values(call.values, 2, bytes_of({-1e8f, 200, 300}));
  ASSERT_TRUE(call.write({1, 2, 4}).ok());
  EXPECT_EQ(call.first, (std::vector<float>{1, 222}));  // (1e8 - 1e8) + 1
  EXPECT_EQ(call.second, (std::vector<float>{333}));
}

TEST(Carried, AverageAndScalesAreThoseOfABackend) {
  Call call;
  call.signature.reduce = ReduceOp::kAverage, call.signature.prescale = 3;
  call.signature.postscale = 0.5;
  append_values(call.values, 0, bytes_of({2, 4, 6}));
  append_values(call.values, 1, bytes_of({4, 4, 4}));
  ASSERT_TRUE(call.write({0, 1}).ok());
  EXPECT_EQ(call.first, (std::vector<float>{4.5, 6}));
  EXPECT_EQ(call.second, (std::vector<float>{7.5}));
}

TEST(Carried, WhoJoinedCountsAsZeros) {
  Call call;
  append_values(call.values, 0, bytes_of({2, 4, 6}));
  ASSERT_TRUE(call.write({0, 1}).ok());
  EXPECT_EQ(call.first, (std::vector<float>{2, 4}));
}

TEST(Carried, ABroadcastIsWhatItsRootSays) {
  Call call;
  call.signature.op = Op::kBroadcast, call.signature.root = 3;
  append_values(call.values, 0, {});
  append_values(call.values, 3, bytes_of({2, 4, 6}));
  ASSERT_TRUE(call.write({0, 3}).ok());
  EXPECT_EQ(call.first, (std::vector<float>{2, 4}));
  EXPECT_EQ(call.second, (std::vector<float>{6}));
}

TEST(Carried, ARankContributesItsInputsButOnlyTheRootToABroadcast) {
  Call call;
  call.first = {1, 2}, call.second = {3};
  std::string bytes = "stale";
  pack(call.request, 1, bytes);
  EXPECT_EQ(bytes, bytes_of({1, 2, 3}));
  call.request.op = Op::kBroadcast, call.request.root = 0;
  pack(call.request, 1, bytes);
  EXPECT_EQ(bytes, "");
  pack(call.request, 0, bytes);
  EXPECT_EQ(bytes, bytes_of({1, 2, 3}));
}

TEST(Carried, WrongValuesAreRefused) {
  const auto refused = [](const std::string& values) {
    Call call;
    call.values = values;
    return call.write({0, 1}).code() == Code::kCorrupt;
  };
  std::string right, stranger, shorter, twice;
  append_values(right, 0, bytes_of({1, 2, 3}));
  append_values(stranger, 2, bytes_of({1, 2, 3}));
  append_values(shorter, 0, bytes_of({1, 2}));
  twice = right + right;
  EXPECT_FALSE(refused(right));
  EXPECT_TRUE(refused(stranger));
  EXPECT_TRUE(refused(shorter));
  EXPECT_TRUE(refused(twice));
  EXPECT_TRUE(refused(right.substr(0, right.size() - 1)));
}

TEST(Carried, OnlyWhatIsSmallForAllRanksIsCarried) {
  Options options;
  Signature signature;
  signature.shapes = {{256}};
  EXPECT_FALSE(is_carried(signature, options, 2));  // it is off
  options.carry_bytes = 2048;
  EXPECT_TRUE(is_carried(signature, options, 2));
  EXPECT_FALSE(is_carried(signature, options, 3));
  signature.shapes = {{int64_t{1} << 47}};
  signature.dtype = DType::kFloat64;
  EXPECT_FALSE(is_carried(signature, options, 2));
  signature.shapes = {{}};
  EXPECT_TRUE(is_carried(signature, options, 2));
  for (const auto change :
       {+[](Signature& s) { s.domain = 1; }, +[](Signature& s) { s.chain = "x"; },
        +[](Signature& s) { s.reduce = ReduceOp::kAdasum; },
        +[](Signature& s) { s.op = Op::kAllgather; }}) {
    Signature other = signature;
    change(other);
    EXPECT_FALSE(is_carried(other, options, 2));
  }
}

}  // namespace
}  // namespace hora
