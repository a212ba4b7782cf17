// Goal: `hora plan` understands links as people write them and says what the model says.

#include "launcher/plan.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Plan, ReadsARateAndADelay) {
  EXPECT_DOUBLE_EQ(link_of("8gbit").value().bandwidth, 1e9);
  EXPECT_DOUBLE_EQ(link_of("2.5gbit,50us").value().bandwidth, 312.5e6);
  EXPECT_DOUBLE_EQ(link_of("100mbit,20ms").value().latency - link_of("100mbit").value().latency,
                   20e-3);
}

TEST(Plan, RefusesWhatIsNoLinkAndShowsOne) {
  for (const char* text : {"", "10", "gbit", "10gb", "-1gbit", "0gbit", "1gbit,", "1gbit,soon",
                           "nangbit", "infgbit", "1e9gbit"}) {
    const auto link = link_of(text);
    ASSERT_FALSE(link.ok()) << text;
    EXPECT_NE(link.status().message().find("100mbit,20ms"), std::string::npos);
  }
}

TEST(Plan, ShowsBothRoutesOnlyWhereThereAreTwo) {
  const LinkCost across = link_of("1gbit").value();
  const std::string two = plan_page({2, 2, {3e-6, 0, 6e9}, across}, 64 << 20);
  EXPECT_NE(two.find("hierarchical  limited by link; flat would take"), std::string::npos) << two;
  const std::string one = plan_page({4, 1, {3e-6, 0, 6e9}, across}, 64 << 20);
  EXPECT_EQ(one.find("hierarchical"), std::string::npos) << one;
  const std::string host = plan_page({1, 4, {3e-6, 0, 6e9}, across}, 64 << 20);
  EXPECT_NE(host.find("one host: shared memory"), std::string::npos) << host;
}

TEST(Plan, SaysWhichChainsAutoTakes) {
  const Topology topology{4, 1, kUsualInside, link_of("100mbit").value()};
  const std::string table = compression_plan("auto", topology).value();
  EXPECT_NE(table.find("100 Mbit/s"), std::string::npos) << table;
  EXPECT_NE(table.find("  onebit\n"), std::string::npos) << table;
  EXPECT_NE(compression_plan("onebit", topology).status().message().find("nothing to choose"),
            std::string::npos);
}

}  // namespace
}  // namespace hora
