#pragma once

#include <deque>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "runtime/negotiator.h"

namespace hora {

struct Settings {
  int ranks = 4;
  uint64_t seed = 1;
  bool kills = false, pauses = false, early_leave = false, mismatches = true, joins = true,
       sets = true;
  int phases = 8;
  Options options;
  std::vector<int> hosts;
  int arity = 2;
  Time delay_max = 200'000;  ///< of one message; FIFO for each pair, otherwise unordered
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
  int instance = -1;  ///< which global operation this is; equal on all ranks
  int set_index = 0;  ///< 0: world; i: the i-th added set
  std::string name = {};
  Signature signature = {};
  int16_t priority = 0;
  Time sleep = 0;
};

struct Expect {
  bool ok = true, mismatch = false, joined = false, removed = false, shutdown = false;
};

struct Report {
  std::string failure;  ///< empty: all checks passed
  uint64_t steps = 0, messages = 0, bytes = 0, plans = 0, handles = 0, faults = 0, resets = 0,
           stable_plans = 0, errors = 0, stalls = 0, asks = 0;
  uint64_t messages_max = 0;  ///< sent and received by the busiest rank
  Time ended = 0;

  void add(const Report& other);
};

/// What a seed means: random options, size and faults.
Settings random_settings(uint64_t seed);

/// Eight ranks on each host, in a tree of arity eight.
void on_hosts_of_eight(Settings& settings, int ranks);

/// N negotiators, their users, their lanes and the network between them, in virtual time.
class Simulation {
 public:
  explicit Simulation(const Settings& settings);
  Report run();

 private:
  struct Operation_ {  // what the user submitted and what came of it
    int instance = 0;
    std::string name;
    Signature signature;
    std::unique_ptr<Submission>
        submission;  ///< freed as soon as the negotiator may not look any more
    const Submission* address = nullptr;
    Time submitted = 0;
    bool owned = false, completed = false, join = false;
    uint64_t done = 0;
    Status status;
  };
  struct Rank_ {
    std::unique_ptr<Negotiator> negotiator;
    std::vector<Action> script;
    size_t pc = 0;
    bool blocked = false, dead = false, closed = false, aborted = false, done = false;
    Time paused_until = 0;
    Inputs inbox;
    bool wake_scheduled = false;
    Time timer = INT64_MAX;
    std::map<Handle, Operation_> operations;
    std::vector<std::pair<Rank, std::string>> messages;
    std::set<Handle> open;
    std::vector<SetId> set_ids{0};
    std::map<int, std::deque<Plan>> lanes;
    Seq last_seq = 0;
    std::set<SetId> joined;
    std::vector<Seq> seen;
    uint64_t sent = 0, received = 0;
    Abort why;
  };
  struct Collective {
    Plan plan;
    Time first_seen;
    size_t arrived = 0;
    std::vector<int> instances;
  };
  struct Event {
    Time at;
    uint64_t order;
    int kind;
    Rank rank;
    int from;
    std::string bytes;
    Seq seq;
    bool operator>(const Event& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  enum { kDeliver, kWake, kUser, kTimer, kLaneDone, kKill, kLost, kPause };

  void make_scripts();
  void plain_phase(int set_index);
  void train_phase(int set_index, int domain, int steps, bool uneven);
  void post(Time at, int kind, Rank rank, int from = -1, std::string bytes = {}, Seq seq = 0);
  void wake_soon(Rank rank);
  void step(Rank rank);
  void user(Rank rank);
  void submit(Rank rank, const Action& action, bool again);
  void lane_start(Rank rank, int lane);
  void lane_done(Rank rank, Seq seq);
  void plan_arrives(Rank rank, const Plan& plan);
  void complete(Rank rank, Handle handle, const Status& status, int64_t value);
  void fail(const std::string& text);
  void final_checks();
  Signature random_signature(int name);
  int instance(Expect expect) {
    expects_.push_back(expect);
    return static_cast<int>(expects_.size()) - 1;
  }
  uint64_t random(uint64_t below) { return below ? rng_() % below : 0; }
  bool chance(int percent) { return random(100) < static_cast<uint64_t>(percent); }

  Settings settings_;
  std::mt19937_64 rng_;
  std::vector<Position> tree_;
  std::vector<Rank_> ranks_;
  std::vector<std::vector<Rank>> members_{{}};  ///< by set index
  std::vector<bool> removed_{false};
  std::vector<Expect> expects_;
  std::vector<std::pair<bool, Status>> outcomes_;
  std::map<Seq, Collective> collectives_;
  std::map<std::pair<Rank, Rank>, Time> link_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::set<Rank> guilty_;
  Time now_ = 0;
  uint64_t order_ = 0;
  Handle next_handle_ = 1;
  bool early_left_ = false;
  Outputs out_;
  Report report_;
};

}  // namespace hora
