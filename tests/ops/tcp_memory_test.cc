// Goal: a Memory finds every byte of its segments, wherever they lie. Method: all ranges of a small
// memory, read back both ways and compared with the concatenation.

#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/tcp/memory.h"

namespace hora::tcp {
namespace {

std::byte* bytes(std::string& text, size_t at = 0) {
  return reinterpret_cast<std::byte*>(text.data()) + at;
}

TEST(TcpMemory, FindsEveryRangeOfItsSegments) {
  std::string a = "abcdefgh", b = "ijkl", c = "mnopqrstuvwx";
  const std::vector<Segment> segments = {{bytes(a), 2},    {nullptr, 0},  {bytes(a, 4), 2},
                                         {bytes(b), 2},    {bytes(c), 1}, {bytes(c, 4), 3},
                                         {bytes(c, 8), 1}, {nullptr, 0}};
  const std::string all = "abcdefghijklmnqrstuvuv";
  Memory memory;
  for (int again = 0; again < 2; ++again) memory.assign(segments, 2);
  ASSERT_EQ(memory.bytes(), all.size());
  for (size_t begin = 0; begin <= all.size(); ++begin) {
    for (size_t end = begin; end <= all.size(); ++end) {
      std::string visited, described;
      memory.visit(begin, end, [&](std::byte* data, size_t count, size_t at) {
        EXPECT_EQ(at, visited.size());
        visited.append(reinterpret_cast<char*>(data), count);
      });
      for (size_t at = begin; at < end;) {  // two entries at a time
        std::array<iovec, 2> room;
        const size_t used = memory.describe(at, end, room);
        ASSERT_GT(used, 0u);
        for (size_t i = 0; i < used; ++i) {
          described.append(static_cast<char*>(room[i].iov_base), room[i].iov_len);
          at += room[i].iov_len;
        }
      }
      EXPECT_EQ(visited, all.substr(begin, end - begin));
      EXPECT_EQ(described, all.substr(begin, end - begin));
    }
  }
}

TEST(TcpMemory, JoinsNeighbors) {
  std::string a = "abcdefgh";
  const std::vector<Segment> segments = {{bytes(a), 3}, {bytes(a, 3), 0}, {bytes(a, 3), 5}};
  Memory memory;
  memory.assign(segments, 1);
  std::array<iovec, 4> room;
  EXPECT_EQ(memory.describe(0, 8, room), 1u);
  EXPECT_EQ(room[0].iov_len, 8u);
}

}  // namespace
}  // namespace hora::tcp
