// Goal: no byte of a rank's output is lost, and no line of one is inside a line of another.
// Method: the same text cut at every place gives the same lines; a pipe that is read late.
#include "launcher/output.h"

#include <unistd.h>

#include <thread>

#include <gtest/gtest.h>

namespace hora {
namespace {

std::vector<std::string> lines_of(const std::vector<std::string>& pieces) {
  LineSplitter splitter;
  std::vector<Line> lines;
  for (const std::string& piece : pieces) splitter.feed(piece, lines);
  splitter.finish(lines);
  std::vector<std::string> texts;
  for (const Line& line : lines) texts.push_back((line.transient ? "~" : "") + line.text);
  return texts;
}

TEST(LineSplitter, GivesTheSameLinesHoweverTheTextIsCut) {
  const std::string text = "one\n\ntwo\r\n 10%\r 20%\r\r\n100%\nlast";
  const std::vector<std::string> lines = {"one", "", "two", "~ 10%", "~ 20%", "", "100%", "last"};
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t k = i; k <= text.size(); ++k)
      EXPECT_EQ(lines_of({text.substr(0, i), text.substr(i, k - i), text.substr(k)}), lines);
  }
}

TEST(LineSplitter, CutsALineThatNeverEndsWithoutLosingAByte) {
  const std::string text(LineSplitter::kMaxLine * 2 + 5, 'x');
  std::string joined;
  for (const std::string& line : lines_of({text})) {
    EXPECT_LE(line.size(), LineSplitter::kMaxLine);
    joined += line;
  }
  EXPECT_EQ(joined, text);
}

TEST(Tail, KeepsTheLastLinesAndNoProgressBars) {
  Tail tail;
  for (int i = 0; i < 1000; ++i) tail.add({std::to_string(i), i % 2 == 1});
  ASSERT_EQ(tail.lines().size(), Tail::kLines);
  EXPECT_EQ(tail.lines().back(), "998");
  EXPECT_EQ(tail.lines().front(), "600");
  for (int i = 0; i < 20; ++i) tail.add({std::string(Tail::kBytes / 4, 'x'), false});
  EXPECT_LE(tail.lines().size(), 4u);
}

TEST(Outlet, WritesEverythingToAReaderThatIsSlow) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  Outlet outlet(ends[1]);
  std::string expected;
  while (!outlet.full()) {
    const std::string text(expected.size() % 1000, 'a');
    outlet.add("[1] ", {text, expected.size() % 2 == 0});
    expected += "[1] " + text + "\n";
    outlet.pump();  // must not wait, though nobody reads
  }
  std::string got;
  std::thread reader([&] {
    char bytes[5000];
    for (ssize_t count; (count = ::read(ends[0], bytes, sizeof(bytes))) > 0;)
      got.append(bytes, static_cast<size_t>(count));
  });
  while (outlet.pending()) outlet.pump();
  ::close(ends[1]);
  reader.join();
  ::close(ends[0]);
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace hora
