// Goal: what rank 0 tells of its choices is what the others read.
// Method: text and back; texts that are none.

#include "ops/auto_choices.h"

#include <string>

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(AutoChoices, AreTextAndBack) {
  AutoChoices choices;
  EXPECT_EQ(choices.text(), "");
  choices.note({0, 0.1 + 0.2, 4, uint64_t{1} << 40}, 6);
  choices.note({0, 0.7, 2, 1000}, 0);
  choices.note({3, 0.7, 4, 1000}, 2);
  const auto read = AutoChoices::parse(choices.text());
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read.value().text(), choices.text());
  EXPECT_EQ(read.value().find({0, 0.1 + 0.2, 4, uint64_t{1} << 40}), 6u);
  EXPECT_EQ(read.value().find({0, 0.7, 2, 1000}), 0u);
  EXPECT_EQ(read.value().find({0, 0.7, 4, 1000}), std::nullopt);
  EXPECT_EQ(choices.text(),
            "0/0.30000000000000004/4/1099511627776=onebit,0/0.7/2/1000=none,3/0.7/4/1000=bf16");
  EXPECT_TRUE(AutoChoices::parse("").value().empty());
}

TEST(AutoChoices, TheLastCountsAndTheirNumberIsBounded) {
  AutoChoices choices;
  for (uint64_t count = 0; count < AutoChoices::kMost; ++count) choices.note({0, 1, 4, count}, 1);
  choices.note({0, 1, 4, AutoChoices::kMost}, 1);
  EXPECT_EQ(choices.find({0, 1, 4, AutoChoices::kMost}), std::nullopt);
  choices.note({0, 1, 4, 0}, 2);
  EXPECT_EQ(choices.find({0, 1, 4, 0}), 2u);
}

TEST(AutoChoices, WhatIsNoneIsRefused) {
  for (const char* text : {"x", "0/0.7/4/1000", "0/0.7/4/1000=", "0/0.7/4/1000=onebat",
                           "0/0.7/4=onebit", "0/0.7/4/x=onebit", "-1/0.7/4/1=onebit",
                           "0/0.7/4/1=onebit,", "0/0.7/4/1=onebit 0/0.7/4/2=onebit"}) {
    const auto read = AutoChoices::parse(text);
    EXPECT_EQ(read.status().code(), Code::kCorrupt) << text;
    EXPECT_NE(read.status().message().find("no choice of auto"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace hora
