#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace hora {

/// A line of a rank's output, without its end.
struct Line {
  std::string text;
  bool transient = false;  ///< it ended in a carriage return: a progress bar that will be redrawn
};

/// Cuts a stream into lines. "\n" and "\r\n" end a line; a lone "\r" ends one that is transient,
/// and an empty transient line is dropped. A line longer than kMaxLine is cut.
class LineSplitter {
 public:
  static constexpr size_t kMaxLine = size_t{1} << 20;

  /// Appends what `bytes` completes to `lines`.
  void feed(std::string_view bytes, std::vector<Line>& lines);
  /// The stream has ended: what is left is a line too.
  void finish(std::vector<Line>& lines);

 private:
  void end_line(bool transient, std::vector<Line>& lines);

  std::string partial_;
  bool returned_ = false;  // the last byte was "\r", and may yet be half of "\r\n"
};

/// The last lines of a stream.
class Tail {
 public:
  static constexpr size_t kLines = 200, kBytes = size_t{256} << 10;

  void add(const Line& line);
  const std::deque<std::string>& lines() const { return lines_; }

 private:
  std::deque<std::string> lines_;
  size_t bytes_ = 0;
};

/// Lines of all ranks on their way to one of our own descriptors, which may be slow. On a terminal
/// a transient line stays at the bottom until another line takes its place; elsewhere it is a line
/// like others. When the reader has gone away the rest is dropped.
class Outlet {
 public:
  explicit Outlet(int descriptor);

  void add(std::string_view prefix, const Line& line);
  /// Writes what can be written without waiting.
  void pump();
  bool pending() const { return written_ < queue_.size(); }
  /// The queue is long: stop reading from the ranks for a while.
  bool full() const { return queue_.size() - written_ > kQueue; }
  int descriptor() const { return descriptor_; }

 private:
  static constexpr size_t kQueue = size_t{1} << 20;

  const int descriptor_;
  const bool terminal_;
  std::string queue_;
  size_t written_ = 0;
  bool on_transient_ = false;
  bool broken_ = false;
};

}  // namespace hora
