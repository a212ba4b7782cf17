#pragma once

#include <poll.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "hora/status.h"
#include "launcher/agent_wire.h"
#include "launcher/output.h"
#include "ops/descriptor.h"
#include "runtime/clock.h"

namespace hora {

/// horarun's end of an agent on another host: the remote shell's process, what goes to the agent,
/// and what comes from it. Whoever has one waits for its descriptors and then lets it attend().
/// Threads: one.
class RemoteHost {
 public:
  /// How to get there. The name is an argument of its own, so no shell of ours reads it.
  struct Route {
    std::string name;
    std::string shell;    ///< for /bin/sh, such as "ssh -p 22"; called with a host and a command
    std::string program;  ///< a path to horarun, tried before PATH
    std::vector<std::string> environment;  ///< of the remote shell
  };

  /// Not started yet: start() makes one that is.
  RemoteHost(Route route, const Clock& clock);
  /// Starts the remote shell. Errors: kUnavailable.
  static Result<std::unique_ptr<RemoteHost>> start(const Route& route, const Clock& clock);

  const std::string& name() const { return route_.name; }
  pid_t pid() const { return pid_; }

  void send(const agent_wire::Message& message);
  /// Writes what can be written without waiting.
  void flush();
  /// `reads`: there is room for what it may say.
  void add_to(std::vector<pollfd>& entries, bool reads) const;
  /// Reads and writes what can be without waiting, and appends what came to `messages`. A host that
  /// is silent for long, or does not keep to the protocol, is given up.
  void attend(bool reads, std::vector<agent_wire::Message>& messages);
  /// The remote shell has ended; messages may still be on their way.
  void reaped(int wait_status) { wait_status_ = wait_status; }

  /// Ends the shell: nothing more is expected of it. `reason` as obituary() tells it.
  void give_up(std::string reason);

  /// Is anything more to come?
  bool open() const { return in_.valid(); }
  /// The connection has ended and the shell was reaped, or the host was given up.
  bool gone() const { return given_up() || (!open() && wait_status_); }
  /// Why, in words that go behind the host's name.
  std::string obituary() const;
  /// Lines that the remote shell itself printed.
  std::vector<std::string> take_remarks();

 private:
  bool given_up() const { return !given_up_.empty(); }
  void read();
  void read_remarks();
  void parse(std::vector<agent_wire::Message>& messages);

  const Route route_;
  const Clock& clock_;
  pid_t pid_ = -1;
  Descriptor out_, in_, remarks_;  // to and from the agent; the shell's stderr
  std::string queue_;
  agent_wire::Inbox inbox_{true};
  LineSplitter splitter_;
  std::vector<std::string> new_remarks_;
  std::string last_remark_;
  bool greeted_ = false;
  std::optional<int> wait_status_;
  std::string given_up_;
  Deadline alive_, silence_;
};

}  // namespace hora
