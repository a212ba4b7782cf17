#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hora/status.h"

namespace hora::agent_wire {

// What travels between horarun and its agent on another host, over the agent's stdin and stdout.
// A login shell may print before the agent begins, so its first bytes are a line that nobody else
// prints; then both sides send messages:
//
//   message := length:u32 kind:u8 body      length counts kind and body; kinds in Message's order
//   text    := length:u32 bytes
//   list    := count:u32 item*
//
// Numbers are little-endian. First the agent says Hello; then Task, Ready or Refused. From then on
// it starts a rank for each Start, reports Output and Ended, and obeys Kill; Finish ends it, as
// does the end of its stdin. Both are Alive when they have had nothing else to say for a while.

inline constexpr std::string_view kGreeting = "\001hora agent\002\n";
inline constexpr uint32_t kProtocol = 2;
inline constexpr size_t kMaxMessage = size_t{16} << 20;
inline constexpr size_t kMaxNoise = size_t{64} << 10;  ///< before the greeting

struct Hello {
  uint32_t protocol = kProtocol;
  std::string version;  ///< of Hora
};
/// A rank that may be started, once or several times.
struct RankTask {
  std::vector<std::string> arguments, environment;
};
/// The environment is added to the one that the agent has.
struct Task {
  std::string folder;    ///< the working directory
  std::string store;     ///< "tcp://10.0.0.1:4711,[fd77::1]:4711"; empty: there is none
  uint32_t sharers = 1;  ///< ranks that the host's cores are for
  std::vector<RankTask> ranks;
};
struct Ready {};
struct Refused {
  std::string reason;
};
struct Start {
  uint32_t task = 0;                     ///< an index in Task::ranks
  std::vector<std::string> environment;  ///< counts before the task's
};
/// `rank` counts the Starts, from 0, here and below.
struct Output {
  uint32_t rank = 0;
  uint8_t error = 0;  ///< 1: of stderr
  std::string bytes;
};
struct Ended {
  uint32_t rank = 0, pid = 0, wait_status = 0;
};
/// A flight record of a rank, after a failure.
struct Record {
  std::string name, content;
};
struct Kill {
  uint32_t rank = 0, signal = 0;
};
struct Finish {};
struct Alive {};

// Instead of a Task, `hora doctor --hosts` sends Inspect, then AskTime and Reach.
struct Inspect {
  std::string job, secret;  ///< of a store to be opened for others to reach
};
struct Inspected {
  std::string store;  ///< where: "tcp://..."
  uint32_t cores = 0;
  std::vector<std::string> lacks;  ///< what ranks there would miss, and what to do
};
struct AskTime {};
struct Time {
  uint64_t unix_nanoseconds = 0;
};
struct Reach {
  uint32_t to = 0;  ///< comes back
  std::string store;
};
struct Reached {
  uint32_t to = 0;
  std::string failure;  ///< empty: none
  uint64_t round_trip_ns = 0, bytes_per_second = 0;
};

using Message = std::variant<Hello, Task, Ready, Refused, Start, Output, Ended, Record, Kill,
                             Finish, Alive, Inspect, Inspected, AskTime, Time, Reach, Reached>;

std::string encode(const Message& message);

/// Bytes on their way to becoming messages.
class Inbox {
 public:
  /// `greeted`: what comes before the greeting is to be skipped first.
  explicit Inbox(bool greeted) : greeted_(!greeted) {}

  void feed(std::string_view bytes) { bytes_.append(bytes); }
  /// The next message; nothing while it is not whole. Errors: kInvalidArgument: these are none.
  Result<std::optional<Message>> next();
  /// What came instead of a greeting, so far.
  std::string_view noise() const { return greeted_ ? std::string_view() : bytes_; }

 private:
  std::string bytes_;
  size_t taken_ = 0;
  bool greeted_;
};

}  // namespace hora::agent_wire
