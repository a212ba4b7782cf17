// Goal: the exchanges of one tensor follow each other on a rank, however their slices are spread
// over lanes, and a chain that is no longer wanted lasts as long as its exchanges.
// Method: slices are planned and ended by hand, as lanes do.
#include "runtime/compression.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Exchanges, BeginWhenAllSlicesOfTheOneBeforeHaveEnded) {
  Exchanges exchanges;
  EXPECT_TRUE(exchanges.idle());
  EXPECT_EQ(exchanges.plan(false), 0u);
  EXPECT_EQ(exchanges.plan(true), 0u);
  EXPECT_EQ(exchanges.plan(false), 1u);  // a rank that has joined is behind
  EXPECT_EQ(exchanges.plan(true), 1u);
  EXPECT_EQ(exchanges.plan(true), 2u);
  EXPECT_TRUE(exchanges.is_turn_of(0) && !exchanges.is_turn_of(1));
  EXPECT_FALSE(exchanges.end(0));
  EXPECT_FALSE(exchanges.is_turn_of(1));
  EXPECT_TRUE(exchanges.end(0));
  EXPECT_TRUE(exchanges.is_turn_of(1) && !exchanges.is_turn_of(2));
  EXPECT_FALSE(exchanges.end(1));
  EXPECT_TRUE(exchanges.end(1));
  EXPECT_FALSE(exchanges.idle());
  EXPECT_TRUE(exchanges.end(2));
  EXPECT_TRUE(exchanges.idle());
}

TEST(Exchanges, DoNotEndBeforeTheirLastSliceIsPlanned) {
  Exchanges exchanges;
  exchanges.plan(false);
  EXPECT_FALSE(exchanges.end(0));
  EXPECT_FALSE(exchanges.idle());
  EXPECT_EQ(exchanges.plan(true), 0u);
  EXPECT_TRUE(exchanges.end(0));
}

TEST(Exchanges, OfAJobThatHasFailedEndInAnyOrder) {
  Exchanges exchanges;
  exchanges.plan(true);
  exchanges.plan(true);
  EXPECT_FALSE(exchanges.end(1));
  EXPECT_TRUE(exchanges.end(0));
  EXPECT_TRUE(exchanges.idle());
}

class CompressionTest : public testing::Test {
 protected:
  BoundChain* bind(const std::string& chain) {
    Signature signature;
    signature.chain = chain;
    signature.shapes = {{64, 64}};
    return compression_.bind(0, "w", signature, 2, 2);
  }

  const std::vector<int> hosts_ = {0, 1};
  Compression compression_{Config(), AutoJob(), hosts_, AutoChoices()};
};

TEST_F(CompressionTest, AnotherChainBeginsWhenTheOneBeforeHasEnded) {
  BoundChain* const first = bind("onebit");
  first->exchanges.plan(true);
  EXPECT_EQ(bind("onebit"), first);
  BoundChain* const second = bind("bf16");
  ASSERT_NE(second, first);
  EXPECT_EQ(first->chain, "onebit");  // its slice still runs
  EXPECT_EQ(second->exchanges.plan(true), 0u);
  EXPECT_FALSE(second->is_turn_of(0));
  EXPECT_TRUE(first->is_turn_of(0));
  first->exchanges.end(0);
  EXPECT_TRUE(second->is_turn_of(0));
  EXPECT_EQ(second->earlier, nullptr);
  second->exchanges.end(0);
  EXPECT_EQ(bind("fp16"), second);  // idle: used again
  EXPECT_EQ(second->chain, "fp16");
}

}  // namespace
}  // namespace hora
