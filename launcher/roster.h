#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hora/membership.h"

namespace hora {

/// How an elastic job behaves. Times in nanoseconds.
struct RosterOptions {
  int start_ranks = 1;  ///< training begins with at least so many
  int min_ranks = 1, max_ranks = 1;
  bool slots_may_change = false;  ///< a discovery script tells how many there are
  int failures_allowed = 3;       ///< of a slot; after so many it is not used again
  uint64_t reset_limit = UINT64_MAX;
  int64_t timeout = 0;                   ///< for enough ranks to be ready
  int64_t cooldown = 0;                  ///< of a slot after its first failure; doubles ...
  int64_t longest_cooldown = INT64_MAX;  ///< ... each time, up to this
  int64_t grace = 0;                     ///< for a rank that is no longer needed to end by itself
};

/// How many ranks a host takes.
struct HostSlots {
  std::string host;
  int count = 0;
  friend bool operator==(const HostSlots&, const HostSlots&) = default;
};

/// Something that the supervisor has to do.
struct RosterAction {
  enum class Kind {
    kStart,   ///< a process for `worker` on `host`
    kPlace,   ///< tell `worker`: it has `place` in `epoch`; answers its ask number `ask`
    kLeave,   ///< tell `worker`, as an answer to `ask`, that it is no longer needed
    kChange,  ///< tell the ranks of `epoch` to meet again
    kStop,    ///< end `worker`'s process
    kSay,     ///< tell the user `text`
    kFail,    ///< end the job, because of `text`
  };
  Kind kind = Kind::kSay;
  int worker = 0;
  uint64_t ask = 0;
  uint32_t epoch = 0;
  std::string host;
  Place place;
  std::string text;
};

/// Decides who takes part in an elastic job: which processes to start and where, when the ranks
/// meet again, and who gets which rank. A pure state machine: events and the time go in, actions
/// come out.
///
/// A *worker* is a process, numbered from 1 and never again; a *slot* is a place on a host where
/// one can run, and remembers failures (a member keeps its process when another slot of its host
/// goes away); a *member* is a worker that has a rank in the current epoch. A new epoch begins when
/// all members that live have asked for it. Ranks of one host are numbered in a row; hosts follow
/// the order of their old ranks, so rank 0 is a member with the state, and workers that never were
/// members come last on their host, and hosts without a member after the others.
class Roster {
 public:
  explicit Roster(const RosterOptions& options) : options_(options) {}

  // Events.
  /// These may be used from now on; a host that is missing has no slot any longer.
  void slots(int64_t now, const std::vector<HostSlots>& hosts);
  /// All processes there are lost; ended() follows for each. Its other slots have failed, too.
  void host_lost(int64_t now, const std::string& host);
  void asked(int64_t now, int worker, uint64_t ask);
  void ended(int64_t now, int worker, bool well);
  void tick(int64_t now);

  /// What to do, in this order; each is given once.
  std::vector<RosterAction> take_actions();
  /// When to call tick() even if nothing happens.
  std::optional<int64_t> wake_at() const;

  /// No member is left, or the job has failed: the supervisor stops the rest.
  bool over() const { return over_; }
  /// With over(): every member of the last epoch ended well.
  bool succeeded() const { return over_ && !failed_ && first_failed_ == 0; }
  /// The worker that failed first in the last epoch; 0: none.
  int first_failed() const { return first_failed_; }
  uint32_t epoch() const { return epoch_; }
  /// A worker's rank in the epoch it was last in; -1 before that.
  int rank_of(int worker) const;
  /// Is this process no longer needed, so that its end is no failure?
  bool is_dismissed(int worker) const;

 private:
  struct Worker {
    size_t host = 0, slot = 0;
    uint64_t ask = 0;  ///< not answered yet; 0: none
    int rank = -1;
    bool member = false;     ///< of the current epoch
    bool dismissed = false;  ///< not needed any more; its end is no failure
    int64_t stop_at = 0;     ///< if dismissed
  };
  struct Slot {
    int failures = 0;
    int64_t rests_until = 0;
    int worker = 0;  ///< 0: free
  };
  struct HostState {
    std::string name;
    int count = 0;            ///< of slots that may be used now
    std::vector<Slot> slots;  ///< all that ever were
  };

  void update(int64_t now);
  void fail_slot(int64_t now, const HostState& host, size_t index, Slot& slot);
  void dismiss(int64_t now, int number, Worker& worker);
  void drop_candidates(int64_t now);
  void start_workers(int64_t now);
  void start_worker(size_t host, size_t slot);
  void ask_for_change();
  bool may_meet() const;
  bool must_shrink() const;
  std::vector<int> next_members(bool (*takes_part)(const Worker&)) const;
  std::vector<Place> places_of(const std::vector<int>& members) const;
  void try_to_meet(int64_t now);
  bool drop_late_members(int64_t now);
  void watch_the_time(int64_t now);
  void fail(std::string text);
  bool usable(const Slot& slot) const { return slot.failures < options_.failures_allowed; }
  int slot_count() const;
  int count(bool (*of)(const Worker&)) const;
  /// Room for more, on each host and in all; what is beyond a host's slots counts nowhere.
  struct Room {
    std::vector<int> hosts;
    int total = 0;
    bool take(size_t host);
  };
  Room room_beside(bool (*of)(const Worker&)) const;
  std::string why_too_few() const;
  RosterAction& act(RosterAction::Kind kind, int worker = 0);

  const RosterOptions options_;
  std::map<int, Worker> workers_;  ///< those that run, by number
  std::map<int, int> last_ranks_;  ///< of workers that have ended, while it matters
  std::vector<HostState> hosts_;   ///< in the order in which they were first told
  int last_worker_ = 0;
  uint32_t epoch_ = 0, changed_ = 0;  ///< the latter: told to end
  bool begun_ = false, ending_ = false, over_ = false, failed_ = false;
  int first_failed_ = 0;
  int64_t waiting_since_ = -1;
  std::optional<int64_t> wake_at_;
  std::vector<RosterAction> actions_;
};

}  // namespace hora
