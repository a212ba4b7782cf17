#pragma once

#include <poll.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"
#include "launcher/output.h"
#include "ops/descriptor.h"

namespace hora {

/// What one rank prints, from its pipes or its agent: lines to our outlets with the rank's prefix,
/// or bytes to its own files. The last lines of stderr are kept.
///
/// Ownership: borrows the outlets. Threads: one.
class RankOutput {
 public:
  /// `complain` is told once when a file cannot take more.
  RankOutput(Outlet& out, Outlet& err, std::function<void(const std::string& text)> complain);

  /// Bytes go to `folder`/stdout and `folder`/stderr from now on. Errors: kUnavailable.
  Status open_files(const std::string& folder);
  void read_from(Descriptor out, Descriptor err) {
    streams_[0].pipe = std::move(out);
    streams_[1].pipe = std::move(err);
  }
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  const std::string& prefix() const { return prefix_; }

  /// Pipes that may be read, as long as there is room for what comes.
  void add_to(std::vector<pollfd>& entries) const;
  /// Reads what is there, without waiting, while there is room.
  void attend();
  bool open() const { return streams_[0].pipe.valid() || streams_[1].pipe.valid(); }
  void take(bool error, std::string_view bytes);
  /// What is left is a line, too.
  void finish();

  const Tail& tail() const { return tail_; }
  void forget_tail() { tail_ = {}; }

 private:
  struct Stream {
    Descriptor pipe, file;  ///< the file takes the bytes instead of the outlet
    LineSplitter splitter;
    Outlet* outlet = nullptr;
  };

  void read(bool error);
  void save(Stream& stream, std::string_view bytes);
  void pass_on(bool error, const std::vector<Line>& lines);

  Stream streams_[2];  ///< stdout, stderr
  const std::function<void(const std::string& text)> complain_;
  std::string prefix_;
  Tail tail_;
};

}  // namespace hora
