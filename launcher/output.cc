#include "launcher/output.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace hora {

void LineSplitter::end_line(bool transient, std::vector<Line>& lines) {
  returned_ = false;
  if (transient && partial_.empty()) return;
  lines.push_back({std::move(partial_), transient});
  partial_.clear();
}

void LineSplitter::feed(std::string_view bytes, std::vector<Line>& lines) {
  while (!bytes.empty()) {
    if (returned_) {
      const bool newline = bytes[0] == '\n';
      end_line(!newline, lines);
      if (newline) bytes.remove_prefix(1);
      continue;
    }
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view text = bytes.substr(0, end);
    const size_t taken = std::min(text.size(), kMaxLine - partial_.size());
    partial_.append(text.substr(0, taken));
    bytes.remove_prefix(taken);
    if (taken < text.size()) {
      end_line(false, lines);
    } else if (!bytes.empty()) {
      if (bytes[0] == '\r')
        returned_ = true;
      else
        end_line(false, lines);
      bytes.remove_prefix(1);
    }
  }
}

void LineSplitter::finish(std::vector<Line>& lines) {
  if (!partial_.empty()) end_line(false, lines);
  returned_ = false;
}

void Tail::add(const Line& line) {
  if (line.transient) return;
  lines_.push_back(line.text.substr(0, kBytes));
  bytes_ += lines_.back().size();
  while (lines_.size() > kLines || bytes_ > kBytes) {
    bytes_ -= lines_.front().size();
    lines_.pop_front();
  }
}

Outlet::Outlet(int descriptor) : descriptor_(descriptor), terminal_(::isatty(descriptor) == 1) {}

void Outlet::add(std::string_view prefix, const Line& line) {
  if (broken_) return;
  constexpr std::string_view kEraseLine = "\r\x1b[2K";
  if (on_transient_) queue_.append(kEraseLine);
  queue_.append(prefix).append(line.text);
  on_transient_ = terminal_ && line.transient;
  if (!on_transient_) queue_.push_back('\n');
}

void Outlet::pump() {
  while (pending() && !broken_) {
    // Our descriptor may be shared with a shell, so it cannot be made non-blocking; but after
    // POLLOUT a pipe takes PIPE_BUF bytes without waiting.
    pollfd entry{descriptor_, POLLOUT, 0};
    if (::poll(&entry, 1, 0) <= 0) break;
    const size_t count = std::min<size_t>(queue_.size() - written_, PIPE_BUF);
    const ssize_t written = ::write(descriptor_, queue_.data() + written_, count);
    if (written >= 0)
      written_ += static_cast<size_t>(written);
    else if (errno == EAGAIN)
      break;
    else if (errno != EINTR)
      broken_ = true;
  }
  if (broken_ || !pending()) {
    queue_.clear();
    written_ = 0;
  } else if (written_ > kQueue) {
    queue_.erase(0, written_);
    written_ = 0;
  }
}

}  // namespace hora
