// Goal: staging copies every byte whatever the way, and takes the way that costs less where it
// lies, with few trials. Method: exact comparison over sizes and alignments; costs played by a
// model.

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "ops/shm/staging.h"

namespace hora::shm {
namespace {

std::vector<std::byte> pattern(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + 1);
  return data;
}

TEST(ShmStaging, CopiesEveryByteAndNoOther) {
  const std::vector<std::byte> from = pattern(700);
  for (const bool streams : {false, true})
    for (size_t offset = 0; offset < 20; ++offset)
      for (const size_t bytes : {0, 1, 3, 15, 16, 17, 63, 64, 65, 127, 200, 513, 640}) {
        std::vector<std::byte> to(700, std::byte{0xEE});
        Staging::copy(to.data() + offset, from.data() + 3, bytes, streams);
        std::vector<std::byte> expected(700, std::byte{0xEE});
        std::copy_n(from.begin() + 3, bytes, expected.begin() + static_cast<ptrdiff_t>(offset));
        ASSERT_EQ(to, expected) << bytes << " bytes at " << offset;
      }
}

/// How many of `count` operations streamed, when the two ways cost this much.
int streamed(Staging& staging, size_t bytes, int count, uint64_t cached, uint64_t streaming) {
  int number = 0;
  for (int i = 0; i < count; ++i) {
    const bool streams = staging.streams(bytes);
    number += streams;
    staging.took(streams ? streaming : cached);
  }
  return number;
}

constexpr size_t kLarge = 4 << 20;

bool has_a_choice() {
  Staging staging;
  return staging.streams(1);
}

TEST(ShmStaging, TakesTheCheaperWayWithFewTrials) {
  if (!has_a_choice()) GTEST_SKIP() << "this processor has no streaming stores";
  Staging near, far;
  EXPECT_LE(streamed(near, kLarge, 1000, 50, 100), 15);
  EXPECT_GE(streamed(far, kLarge, 1000, 600, 100), 985);
}

TEST(ShmStaging, NoticesThatTheCostsHaveChanged) {
  if (!has_a_choice()) GTEST_SKIP() << "this processor has no streaming stores";
  Staging staging;
  streamed(staging, kLarge, 1000, 50, 100);
  EXPECT_GE(streamed(staging, kLarge, 1000, 600, 100), 700);
  EXPECT_LE(streamed(staging, kLarge, 1000, 50, 100), 300);
}

TEST(ShmStaging, OneSlowTrialDoesNotDecide) {
  if (!has_a_choice()) GTEST_SKIP() << "this processor has no streaming stores";
  Staging staging;
  streamed(staging, kLarge, 100, 50, 100);
  for (int i = 0; i < 200; ++i) {
    const bool streams = staging.streams(kLarge);
    staging.took(streams ? 100 : i == 28 ? 9000 : 50);  // the 129th of all: a trial of the caches
    if (i > 30 && i < 150) EXPECT_FALSE(streams) << i;
  }
}

TEST(ShmStaging, SizesLearnApart) {
  if (!has_a_choice()) GTEST_SKIP() << "this processor has no streaming stores";
  Staging staging;
  streamed(staging, kLarge, 200, 50, 100);
  streamed(staging, 16 * kLarge, 200, 100, 50);
  EXPECT_FALSE(staging.streams(kLarge));
  EXPECT_TRUE(staging.streams(16 * kLarge));
}

}  // namespace
}  // namespace hora::shm
