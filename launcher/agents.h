#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "hora/status.h"
#include "launcher/agent_wire.h"
#include "launcher/remote_host.h"
#include "runtime/clock.h"

namespace hora {

/// A job's agents on other hosts: brings them up, has them start and end ranks, and tells what
/// comes of it. A host is known by its name, a rank by a number of the caller's.
///
/// Threads: one. Nothing is called back but from attend() and kill().
class Agents {
 public:
  /// A host that cannot be had, or not any longer.
  struct Loss {
    std::string host;
    std::string text;        ///< "host node1: " and why
    bool was_ready = false;  ///< ranks could have been started there
    std::vector<int> ranks;  ///< that were to run there, or ran and had not ended
  };
  struct Hands {
    std::function<void(int rank, bool error, std::string_view bytes)> output;
    std::function<void(int rank, pid_t pid, int wait_status)> ended;
    std::function<void(const Loss& loss)> lost;
    std::function<void(const agent_wire::Record& record)> keep;
    std::function<void(std::string_view text)> say;
  };

  /// Borrows `clock`. A host that is not ready after `start_timeout` is lost.
  Agents(Hands hands, std::chrono::milliseconds start_timeout, const Clock& clock)
      : hands_(std::move(hands)), start_timeout_(start_timeout), clock_(clock) {}

  /// Starts an agent, for `task`, unless that host has one. Errors: kUnavailable.
  Status summon(const RemoteHost::Route& route, agent_wire::Task task);
  /// Has a summoned agent start a rank as soon as it is ready: `environment` counts before the one
  /// of the task's rank number `task`.
  void start(const std::string& host, int rank, uint32_t task,
             std::vector<std::string> environment);
  /// One that was not started yet has ended by that.
  void kill(int rank, int signal);
  /// The agents end their ranks, tell the rest of what these wrote, and go.
  void dismiss();

  bool any() const { return !hosts_.empty(); }
  bool all_ready() const;
  bool all_gone() const;

  /// `reads`: there is room for what they may say.
  void add_to(std::vector<pollfd>& entries, bool reads) const;
  void attend(bool reads);
  /// A child of this process has ended and was reaped. False if it belongs to no agent.
  bool reaped(pid_t pid, int wait_status);

 private:
  struct Order {
    int rank = 0;
    agent_wire::Start start;
  };
  struct Agent {
    Agent(std::unique_ptr<RemoteHost> made, std::string by, agent_wire::Task what,
          const Deadline& deadline)
        : connection(std::move(made)),
          shell(std::move(by)),
          task(std::move(what)),
          ready_before(deadline) {}

    std::unique_ptr<RemoteHost> connection;
    std::string shell;  ///< how it was reached
    agent_wire::Task task;
    Deadline ready_before;
    bool ready = false, lost = false;
    std::vector<Order> waiting;  ///< until it is ready
    std::vector<int> ranks;      ///< by the agent's own numbers
    std::vector<bool> running;   ///< likewise
  };

  void attend(const std::string& host, Agent& agent, bool reads);
  void hear(const std::string& host, Agent& agent, const agent_wire::Message& message);
  void greet(const std::string& host, Agent& agent, const agent_wire::Hello& hello);
  void begin(Agent& agent, const Order& order);
  void lose(const std::string& host, Agent& agent, const std::string& why);

  const Hands hands_;
  const std::chrono::milliseconds start_timeout_;
  const Clock& clock_;
  std::map<std::string, Agent> hosts_;
  std::vector<std::unique_ptr<RemoteHost>> retired_;  ///< replaced while they attended
};

}  // namespace hora
