#pragma once

#include <deque>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/name_table.h"
#include "runtime/negotiator.h"
#include "runtime/operation.h"

namespace hora {

/// What goes wrong in an epoch. Where, when and how often is drawn from the seed.
enum class Fault {
  kNone,
  kKill,        ///< one or two ranks die
  kKillHost,    ///< all ranks of a host die in the same moment
  kPause,       ///< a rank is stopped: below the failure timeout, or for twice as long
  kSuspend,     ///< the whole cluster is stopped for long, and nobody is to blame
  kCut,         ///< links between living ranks are closed; both ends are told
  kVanish,      ///< what is sent over some links, in one direction or both, never arrives
  kOutage,      ///< links stand still and then go on: below the failure timeout, or for longer
  kDataError,   ///< a rank's lane fails, and its control plane does not
  kLeaveEarly,  ///< a rank shuts down in the middle of its program
};

struct Settings {
  int ranks = 4;
  uint64_t seed = 1;
  Fault fault = Fault::kNone;
  bool recovers = false;   ///< survivors meet in new epochs, in which ranks die too
  bool strangers = false;  ///< frames of other epochs arrive
  bool mismatches = true, joins = true, sets = true;
  int phases = 8;
  Options options;
  std::vector<int> hosts;
  int arity = 2;
  Time delay_max = 200'000;  ///< of one message; FIFO for each pair, otherwise unordered
  uint32_t epoch = 7;
  Time start_within = 0;                ///< ranks begin the epoch at random times up to this
  std::vector<std::string> old_frames;  ///< of the epoch before, still on their way
};

/// One thing a user's program does.
struct Action {
  enum class Kind {
    kSubmit,
    kTwice,
    kWaitAll,
    kFlush,
    kJoin,
    kLeave,
    kAddSet,
    kRemoveSet,
    kSleep
  } kind;
  int instance = -1;      ///< which global operation this is; equal on all ranks. Flush: the domain
  int set_index = 0;      ///< 0: world; i: the i-th added set
  std::string name = {};  ///< empty: the next cyclic one
  Signature signature = {};
  int16_t priority = 0;
  Time sleep = 0;
};

struct Expect {
  bool ok = true, mismatch = false, joined = false, removed = false;
};

struct Report {
  std::string failure;  ///< empty: all checks passed
  uint64_t steps = 0, messages = 0, bytes = 0, plans = 0, handles = 0, faults = 0, aborts = 0,
           stable_plans = 0, carried = 0, ahead = 0, errors = 0, stalls = 0, asks = 0, unnamed = 0,
           epochs = 0, strangers = 0;
  std::vector<Time> detections;     ///< from the last fault to the last survivor's abort
  std::vector<Rank> survivors;      ///< who could meet in the next epoch
  std::vector<std::string> frames;  ///< some of the last that were sent

  void add(const Report& other);
};

/// What a seed means: random options, size and faults.
Settings random_settings(uint64_t seed);

/// Eight ranks on each host, in a tree of arity eight.
void on_hosts_of_eight(Settings& settings, int ranks);

/// Simulates an epoch and, if the settings say so, those in which its survivors meet.
Report simulate(const Settings& settings);

/// N negotiators, their users, their lanes and the network between them, in virtual time; one
/// epoch.
class Simulation {
 public:
  explicit Simulation(const Settings& settings);
  Report run();

 private:
  struct Operation_ {  // what the user submitted and what came of it
    const Action* action = nullptr;
    int instance = 0;
    std::string name;
    uint64_t count = 0;  ///< elements
    /// Freed as soon as the negotiator may not look any more.
    std::unique_ptr<Submission> submission;
    const Submission* address = nullptr;
    std::unique_ptr<Operation> unnamed;
    Time submitted = 0;
    bool owned = false, completed = false, join = false, failed = false;
    uint64_t planned = 0, done = 0;
  };
  struct Link {
    Rank to = 0;
    Time last = 0;  ///< when the last frame arrives
    bool cut = false, loses = false, vanishes = false;
    Time restored_at = 0;
  };
  struct Rank_ {
    std::unique_ptr<Negotiator> negotiator;  ///< null: it has not begun yet
    std::unique_ptr<NameTable> names;
    std::vector<const Action*> script;
    size_t pc = 0;
    bool blocked = false, dead = false, closed = false, aborted = false, done = false;
    Time paused_until = 0;
    Inputs inbox;
    bool wake_scheduled = false;
    Time timer = INT64_MAX;
    std::vector<std::pair<Rank, uint32_t>> messages;  ///< from, frame
    std::vector<Handle> open;
    std::vector<SetId> set_ids{0};
    std::vector<std::deque<Plan>> lanes;
    std::vector<Link> links;
    Seq last_seq = 0;
    std::set<SetId> joined;
    std::set<int> submitted;  ///< instances
    std::vector<Seq> seen;
    std::set<Rank> broken;  ///< data connections to these are; to itself: it fails by itself
    std::string failed;     ///< an operation whose data did not arrive
    Time aborted_at = 0;
  };
  struct Collective {
    Plan plan;
    Time first_seen = 0;
    size_t arrived = 0, members = 0;
    std::vector<int> instances;
  };
  enum class What : uint8_t {
    kDeliver,
    kStranger,
    kStart,
    kWake,
    kUser,
    kTimer,
    kLaneDone,
    kFault,
    kLost,
    kBreak,
    kVerdict
  };
  struct Event {
    Time at;
    uint64_t order;
    uint64_t value;  ///< a frame or a plan
    Rank rank, from;
    What what;
    bool operator>(const Event& o) const { return at != o.at ? at > o.at : order > o.order; }
  };

  // program.cc: what the users do.
  void make_scripts();
  void plain_phase(int set_index);
  void unnamed_phase(int set_index);
  void train_phase(int set_index, int domain, int steps, bool uneven);
  void set_phase(const std::vector<int>& live);
  const Action* keep(Action action);
  const Action* plain(Action::Kind kind);
  Signature random_signature(int name);
  int instance(Expect expect) {
    expects_.push_back(expect);
    return static_cast<int>(expects_.size()) - 1;
  }

  // simulation.cc: time, users and frames.
  void post(Time at, What what, Rank rank, Rank from = -1, uint64_t value = 0);
  void handle(const Event& event);
  bool over() const;
  void start(Rank rank);
  void wake_soon(Rank rank);
  void step(Rank rank);
  void user(Rank rank);
  void submit(Rank rank, const Action& action, bool again);
  void join(Rank rank, const Action& action);
  void deliver(const Event& event);
  void send(Rank rank, Rank to, std::string& bytes);
  Link* link(Rank from, Rank to);

  // lanes.cc: what they run, and what comes of it.
  void plan_arrives(Rank rank, const Plan& plan);
  void result_arrives(Rank rank, const Outputs::Result& result);
  std::string values_of(const Signature& signature, int instance, Rank rank) const;
  void check_slice(Rank rank, const Slice& slice, Collective& collective, size_t index);
  void lane_start(Rank rank, size_t lane);
  void lane_done(Rank rank, Seq seq);
  void lane_fails(Rank rank, size_t lane);
  bool broken(Rank rank, const Plan& plan) const;
  void complete(Rank rank, Handle handle, const Status& status, int64_t value);
  void check_outcome(Rank rank, Operation_& operation, const Status& status);
  const std::vector<Rank>& members(Rank rank, SetId set) const;
  bool carried(const Signature& signature) const;
  void final_checks();
  void check_detection();

  // faults.cc: what goes wrong, and who may be blamed for it.
  void plan_faults();
  void fault(Rank rank);
  void kill(Rank rank);
  void pause(Rank rank);
  void suspend();
  void part();
  void cut(Link& link, Rank from);
  void break_data(Rank rank, Rank with, int percent);
  void lose(Rank rank, Rank lost);
  void verdict(Rank rank);
  void stranger(Rank rank);
  void check_blame(Rank rank, const Abort& why);
  void happened();

  void fail(const std::string& text);
  Operation_& operation(Handle handle) { return operations_[handle - 1]; }
  uint64_t random(uint64_t below) { return below ? rng_() % below : 0; }
  Time random_time(Time below) { return static_cast<Time>(random(static_cast<uint64_t>(below))); }
  bool chance(int percent) { return random(100) < static_cast<uint64_t>(percent); }
  Rank any_rank() { return static_cast<Rank>(random(ranks_.size())); }

  Settings settings_;
  std::mt19937_64 rng_;
  std::vector<Position> tree_;
  std::vector<Rank_> ranks_;
  std::deque<Action> actions_;
  std::vector<std::vector<Rank>> members_{{}};  ///< by set index
  std::vector<bool> removed_{false};
  std::vector<Expect> expects_;
  std::vector<std::pair<bool, Status>> outcomes_;
  std::deque<Operation_> operations_;  ///< by handle
  std::map<Seq, Collective> collectives_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::deque<std::string> frames_;
  std::vector<uint32_t> free_frames_;
  std::vector<std::string> recent_;  ///< frames, for strangers to repeat

  bool faulty_ = false;  ///< something happened that ends the epoch, or may
  Time last_fault_ = 0;
  std::set<Rank> guilty_;
  std::vector<bool> side_;  ///< of each rank, once links were cut
  Time now_ = 0;
  uint64_t order_ = 0;
  bool early_left_ = false;
  Outputs out_;
  Report report_;
};

}  // namespace hora
