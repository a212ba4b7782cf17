#include "launcher/rank_output.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace hora {

RankOutput::RankOutput(Outlet& out, Outlet& err,
                       std::function<void(const std::string& text)> complain)
    : complain_(std::move(complain)) {
  streams_[0].outlet = &out;
  streams_[1].outlet = &err;
}

Status RankOutput::open_files(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  constexpr const char* kNames[] = {"stdout", "stderr"};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    const std::string path = folder + "/" + kNames[i];
    streams_[i].file.reset(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0666));
    if (!streams_[i].file.valid())
      return Status(Code::kUnavailable, fmt::format("--output-dir: cannot write {}: {}", path,
                                                    ::strerrordesc_np(errno)));
  }
  return {};
}

void RankOutput::add_to(std::vector<pollfd>& entries) const {
  for (const Stream& stream : streams_)
    if (stream.pipe.valid() && !stream.outlet->full())
      entries.push_back({stream.pipe.get(), POLLIN, 0});
}

void RankOutput::attend() {
  for (const bool error : {false, true})
    if (streams_[error].pipe.valid() && !streams_[error].outlet->full()) read(error);
}

void RankOutput::read(bool error) {
  Stream& stream = streams_[error];
  std::array<char, 65536> buffer;
  const ssize_t count = ::read(stream.pipe.get(), buffer.data(), buffer.size());
  if (count > 0) return take(error, {buffer.data(), static_cast<size_t>(count)});
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  std::vector<Line> lines;
  stream.splitter.finish(lines);
  stream.pipe.reset();
  pass_on(error, lines);
}

void RankOutput::take(bool error, std::string_view bytes) {
  Stream& stream = streams_[error];
  std::vector<Line> lines;
  if (stream.file.valid()) save(stream, bytes);
  stream.splitter.feed(bytes, lines);
  pass_on(error, lines);
}

/// A disk takes its time but never waits for anybody.
void RankOutput::save(Stream& stream, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(stream.file.get(), bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      complain_(
          fmt::format("--output-dir: the output is not complete: {}", ::strerrordesc_np(errno)));
      return;
    }
  }
}

void RankOutput::pass_on(bool error, const std::vector<Line>& lines) {
  const Stream& stream = streams_[error];
  for (const Line& line : lines) {
    if (!stream.file.valid()) stream.outlet->add(prefix_, line);
    if (error) tail_.add(line);
  }
}

void RankOutput::finish() {
  for (const bool error : {false, true}) {
    std::vector<Line> lines;
    streams_[error].splitter.finish(lines);
    pass_on(error, lines);
  }
}

}  // namespace hora
