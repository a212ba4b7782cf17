// Goal: numbers with units mean what people mean, and nothing else is accepted.
// Method: tables of texts; printing and reading back gives the same number.
#include "runtime/quantity.h"

#include <array>

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Quantity, ReadsSizesInPowersOf1024InAnySpelling) {
  for (const char* text : {"8388608", "8 MiB", "8MiB", "8M", "8m", "8 MB", "8192k", "8192 KiB"})
    EXPECT_EQ(parse_bytes(text), 8388608u) << text;
  EXPECT_EQ(parse_bytes("1.5G"), 1610612736u);
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("9007199254740993"), 9007199254740993u);  // not a double
}

TEST(Quantity, ReadsTimesInSeconds) {
  EXPECT_EQ(parse_seconds("10"), 10);
  EXPECT_EQ(parse_seconds("10s"), 10);
  EXPECT_EQ(parse_seconds("500 ms"), 0.5);
  EXPECT_EQ(parse_seconds("50us"), 50 / 1e6);
  EXPECT_EQ(parse_seconds("2 min"), 120);
  EXPECT_EQ(parse_seconds("1h"), 3600);
  EXPECT_EQ(parse_seconds("0"), 0);
}

TEST(Quantity, RefusesWhatIsNotANumberWithAUnit) {
  for (const char* text : {"", " ", "k", "-1", "+1", "1 ", " 1", "1  k", "1x", "0x10", "1k1", "nan",
                           "inf", "1e400", "1.5", "99999999999999999999"}) {
    EXPECT_FALSE(parse_bytes(text)) << text;
    const bool is_seconds = std::string_view(text) == "1.5" || text[0] == '9';
    EXPECT_EQ(parse_seconds(text).has_value(), is_seconds) << text;
    EXPECT_FALSE(parse_integer(text)) << text;
  }
}

TEST(Quantity, PrintsWhatItReadsBack) {
  for (const uint64_t bytes : {0ull, 1ull, 1000ull, 1024ull, 65536ull, 8388608ull, 3ull << 40}) {
    EXPECT_EQ(parse_bytes(format_bytes(bytes)), bytes) << format_bytes(bytes);
  }
  for (const double seconds : {0.0, 50 / 1e6, 0.5, 1.0, 10.0, 3600.0, 0.1234567}) {
    EXPECT_EQ(parse_seconds(format_seconds(seconds)), seconds) << format_seconds(seconds);
  }
  EXPECT_EQ(format_bytes(8388608), "8 MiB");
  EXPECT_EQ(format_seconds(50 / 1e6), "50 us");
  EXPECT_EQ(format_seconds(60), "60 s");
}

TEST(Quantity, FindsTheWordThatWasMeant) {
  constexpr std::array<std::string_view, 3> kWords = {"HORA_LANES", "HORA_BUCKET_BYTES",
                                                      "HORA_SEED"};
  EXPECT_EQ(nearest("HORA_BUKET_BYTES", kWords), "HORA_BUCKET_BYTES");
  EXPECT_EQ(nearest("HORA_SEDE", kWords), "HORA_SEED");
  EXPECT_EQ(nearest("HORA_XYLOPHONE_QUARTET", kWords), "");
}

}  // namespace
}  // namespace hora
