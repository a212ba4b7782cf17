// Goal: `hora compress explain` says what ranks will really send and keep.
// Method: sizes that can be worked out by hand.

#include "launcher/compress.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

bool has_line(const std::string& page, const std::string& begins, const std::string& contains) {
  const size_t at = page.find("\n" + begins);
  if (at == std::string::npos) return false;
  return page.substr(at + 1, page.find('\n', at + 1) - at - 1).find(contains) != std::string::npos;
}

TEST(Compress, ExplainsBytesAndMemoryOfEachTensor) {
  const auto page = compression_page("onebit;rule=dim<=1->none",
                                     R"({"layer.weight": [512, 1024], "layer.bias": [512]})", 4);
  ASSERT_TRUE(page.ok()) << page.status().message();
  const std::string& text = page.value();
  // Two means of 4 bytes and 64 bytes of bits for each 512 elements, there and back, 3 of 4 parts.
  EXPECT_TRUE(has_line(text, "layer.weight", std::to_string(1024 * 72 * 2 * 3 / 4))) << text;
  EXPECT_TRUE(has_line(text, "layer.weight", "28.4")) << text;
  EXPECT_TRUE(has_line(text, "layer.weight", "5.00  recode")) << text;  // 4 bytes, and a quarter
  EXPECT_TRUE(has_line(text, "layer.bias", std::to_string(512 * 4 * 2 * 3 / 4))) << text;
  EXPECT_TRUE(has_line(text, "layer.bias", "dense   none; exact")) << text;
}

TEST(Compress, GatheredPayloadsGrowWithTheRanks) {
  const char* model = R"({"w": [65536]})";
  for (const int ranks : {2, 9}) {
    const std::string text = compression_page("drop:ratio=1%", model, ranks).value();
    // 656 of them, 6 bytes each, with 8 bytes of counts.
    EXPECT_TRUE(has_line(text, "w ", std::to_string((656 * 6 + 8) * (ranks - 1)))) << text;
  }
}

TEST(Compress, RefusesWhatItCannotRead) {
  EXPECT_EQ(compression_page("onebat", "{}", 2).status().message(),
            "compression, character 1: no stage or preset 'onebat'; did you mean 'onebit'?");
  for (const char* model : {"", "[1]", "{\"w\": [1.5]}", "{\"w\": [-1]}", "{\"w\": \"x\"}"})
    EXPECT_FALSE(compression_page("onebit", model, 2).ok()) << model;
}

}  // namespace
}  // namespace hora
