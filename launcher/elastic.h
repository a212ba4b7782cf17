#pragma once

#include <poll.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/membership.h"
#include "launcher/discovery.h"
#include "launcher/hosts.h"
#include "launcher/roster.h"
#include "ops/descriptor.h"
#include "runtime/clock.h"
#include "runtime/store.h"

namespace hora {

/// What makes a job elastic.
struct ElasticPlan {
  RosterOptions roster;
  std::vector<Host> hosts;       ///< if there is no script
  Discovery::Options discovery;  ///< its script may be empty
};

/// Requests for a place on their way from the store's thread to the supervisor's.
class Asks {
 public:
  Asks();
  void see(std::string_view key);       ///< any thread: a key was set
  std::vector<membership::Ask> take();  ///< and quiets descriptor()
  int descriptor() const { return event_.get(); }

 private:
  const Descriptor event_;
  std::mutex mutex_;
  std::vector<membership::Ask> asks_;  // guarded by mutex_
};

/// An elastic job's side of the supervisor: carries events to the roster, and out what it decides.
/// Threads: one.
class Elastic {
 public:
  /// What it needs of the supervisor.
  struct Hands {
    std::function<Status(int worker, const Host& host)> start;
    std::function<void(int worker, int signal)> kill;
    std::function<void(int worker, int rank)> place;  ///< from now on it has this rank
    std::function<void(std::string_view text)> say;
  };

  /// Borrows `asks` and `clock`; `store` is the job's.
  Elastic(const ElasticPlan& plan, Asks& asks, std::shared_ptr<Store> store, Hands hands,
          const Clock& clock);

  void add_to(std::vector<pollfd>& entries) const;
  /// Something may have happened to what add_to() gave, or to the time.
  void attend();
  void ended(int worker, bool well);
  /// Before ended() for all who were there.
  void host_lost(const std::string& host);
  /// True if a process that was reaped belongs to us and is no worker.
  bool reaped(pid_t pid, int wait_status);
  int poll_milliseconds() const;

  bool over() const { return roster_.over(); }
  bool succeeded() const { return roster_.succeeded(); }
  int first_failed() const { return roster_.first_failed(); }
  int rank_of(int worker) const { return roster_.rank_of(worker); }
  bool is_dismissed(int worker) const { return roster_.is_dismissed(worker); }

 private:
  void take_hosts();
  void use(std::vector<Host> hosts);
  void carry_out();
  void carry_out(const RosterAction& action);
  void start(const RosterAction& action);

  Asks& asks_;
  const std::shared_ptr<Store> store_;
  const Hands hands_;
  const Clock& clock_;
  Roster roster_;
  const int most_ranks_;
  std::unique_ptr<Discovery> discovery_;
  std::vector<Host> hosts_;            ///< that may be used
  std::map<std::string, Host> known_;  ///< and that once might
  bool discovery_failing_ = false;
  std::map<int, int> stops_;  ///< how often each worker was told to end
};

}  // namespace hora
