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

/// Every codec needs 2 ns for each element in all.
Result<std::string> page_of(std::string_view setting, const std::string& model, size_t ranks,
                            size_t hosts = 0) {
  const CodecSpeed speed{1e-9, 0.5e-9, 0.5e-9};
  if (hosts == 0) hosts = ranks;
  AutoJob job{{hosts, ranks / hosts, kUsualInside, {50e-6, 0, 125e6}},
              CodecSpeeds(automatic_chains().size(), speed)};
  return compression_page(setting, model, job, [&](const ChainConfig&) { return speed; });
}

TEST(Compress, ExplainsBytesAndMemoryOfEachTensor) {
  const auto page = page_of("onebit;rule=dim<=1->none",
                            R"({"layer.weight": [512, 1024], "layer.bias": [512]})", 4);
  ASSERT_TRUE(page.ok()) << page.status().message();
  const std::string& text = page.value();
  // Two means of 4 bytes and 64 bytes of bits for each 512 elements, there and back, 3 of 4 parts.
  EXPECT_TRUE(has_line(text, "layer.weight", std::to_string(1024 * 72 * 2 * 3 / 4))) << text;
  EXPECT_TRUE(has_line(text, "layer.weight", "28.4")) << text;
  EXPECT_TRUE(has_line(text, "layer.weight", "5.00 ")) << text;  // 4 bytes, and a quarter
  EXPECT_TRUE(has_line(text, "layer.bias", std::to_string(512 * 4 * 2 * 3 / 4))) << text;
  EXPECT_TRUE(has_line(text, "layer.bias", "dense   none; exact")) << text;
}

TEST(Compress, TheWayDownHasBytesAndAMemoryOfItsOwn) {
  const auto page = page_of("onebit;down=bf16", R"({"w": [262144]})", 4);
  ASSERT_TRUE(page.ok()) << page.status().message();
  const std::string& text = page.value();
  EXPECT_TRUE(has_line(text, "w ", std::to_string((512 * 72 + 262144 * 2) * 3 / 4))) << text;
  EXPECT_TRUE(has_line(text, "w ", "4.00 ")) << text;  // an owner remembers nothing
  EXPECT_TRUE(has_line(text, "w ", "; down=bf16; ")) << text;
}

TEST(Compress, GatheredPayloadsGrowWithTheRanks) {
  const char* model = R"({"w": [65536]})";
  for (const int ranks : {2, 9}) {
    const std::string text = page_of("drop:ratio=1%", model, ranks).value();
    // 656 of them, 6 bytes each, with 8 bytes of counts.
    EXPECT_TRUE(has_line(text, "w ", std::to_string((656 * 6 + 8) * (ranks - 1)))) << text;
  }
}

TEST(Compress, SaysWhatAutoChoosesAndHowLongItTakes) {
  const std::string text =
      page_of("auto;rule=glob*embed*->bf16",
              R"({"embed": [4096, 256], "layer.weight": [1024, 1024], "layer.bias": [16]})", 4)
          .value();
  EXPECT_TRUE(text.starts_with("auto:error=0.7;rule=glob:*embed*->bf16\n4 ranks\n\n")) << text;
  EXPECT_NE(text.find("1 on each of 4 hosts, 1 Gbit/s, 50 us one way"), text.npos) << text;
  EXPECT_TRUE(has_line(text, "        1M", "  onebit")) << text;
  // 147456 bytes at 1 Gbit/s, 1.5 times, two delays, 2.9 ns of codec; 4 MiB 1.5 times.
  EXPECT_TRUE(has_line(text, "layer.weight", "    4.886    50.432  recode  ef:")) << text;
  EXPECT_TRUE(has_line(text, "layer.bias", "dense   none")) << text;
  EXPECT_TRUE(has_line(text, "embed", "linear  bf16")) << text;
}

TEST(Compress, ShowsBytesInsideHostsAndBetweenThem) {
  const char* model = R"({"layer.weight": [512, 1024], "layer.bias": [1024]})";
  const auto page = page_of("onebit;rule=dim<=1->none;link=inter", model, 8, 4);
  ASSERT_TRUE(page.ok()) << page.status().message();
  const std::string& text = page.value();
  EXPECT_TRUE(has_line(text, "8 ranks on 4 hosts", "")) << text;
  // A host's two members have half the matrix each: together 1024 blocks, to and from 3 of 4 hosts.
  const std::string weight = std::to_string(1024 * 72 * 2 * 3 / 4);
  const std::string bias = std::to_string(1024 * 4 * 2 * 3 / 4);
  EXPECT_TRUE(has_line(text, "layer.weight", weight)) << text;
  EXPECT_TRUE(has_line(text, "layer.weight", "2.50 ")) << text;  // half a residual, a quarter
  EXPECT_TRUE(has_line(text, "layer.bias", bias)) << text;
  const int values = (512 * 1024 + 1024) * 4;
  EXPECT_TRUE(has_line(text, "inside, by a rank", std::to_string(values))) << text;
  EXPECT_TRUE(has_line(text, "between, by a host", std::to_string(values * 2 * 3 / 4))) << text;
  EXPECT_TRUE(has_line(page_of("onebit;link=inter", model, 8, 1).value(),
                       "link=inter compresses nothing on one host", ""));
}

TEST(Compress, RefusesWhatItCannotRead) {
  EXPECT_EQ(page_of("onebat", "{}", 2).status().message(),
            "compression, character 1: no stage or preset 'onebat'; did you mean 'onebit'?");
  for (const char* model : {"", "[1]", "{\"w\": [1.5]}", "{\"w\": [-1]}", "{\"w\": \"x\"}"})
    EXPECT_FALSE(page_of("onebit", model, 2).ok()) << model;
}

}  // namespace
}  // namespace hora
