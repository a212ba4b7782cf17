#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/foresight.h"
#include "runtime/gatherer.h"
#include "runtime/neighbors.h"
#include "runtime/pending.h"
#include "runtime/plan_cache.h"
#include "runtime/recycled.h"
#include "runtime/sequencer.h"
#include "runtime/stall_questions.h"
#include "runtime/tree.h"
#include "runtime/vocabulary.h"
#include "runtime/wire.h"

namespace hora {

/// Everything that happened to one rank since its last step. The caller clears it after step(), and
/// keeps all it points to until then.
struct Inputs {
  struct Message {
    Rank from = 0;
    std::string_view bytes;  ///< one whole frame
  };
  struct Lost {
    Rank rank = 0;
    std::string cause;
  };
  struct Answer {
    uint32_t query = 0;
    std::string text;  ///< at most 4 KiB are used
  };
  std::vector<Message> messages;            ///< in order of arrival for each neighbor
  std::vector<Lost> lost;                   ///< the channel to a neighbor closed
  std::vector<const Submission*> requests;  ///< in order of submission
  std::vector<const Submission*> waits;  ///< someone waits for or polls it; may be decided already
  std::vector<uint16_t> flushes;         ///< the step's last gradient of this domain is in
  std::vector<Join> joins;
  std::vector<Answer> answers;  ///< to Outputs::asks, in this or a later step
  bool leave = false;           ///< shutdown was called
  std::vector<Seq> finished;    ///< plans that this rank's lanes have done

  void clear();
};

/// What a step wants done. The engine first sends, then queues plans to lanes, then delivers
/// completions. Its memory is used again by the next step.
struct Outputs {
  struct Send {
    Rank to = 0;
    std::string bytes;  ///< one whole frame
  };
  struct Completion {
    Handle handle = 0;
    Status status;
    int64_t value = 0;  ///< add_set: the set's id; join: the last rank to join
  };
  struct Stall {
    SetId set = 0;
    std::string name;
    Time waiting = 0;             ///< since this rank submitted it
    uint32_t missing = 0;         ///< how many ranks have not
    std::vector<Rank> ranks;      ///< the lowest 16 of them
    std::vector<Detail> details;  ///< what some of them say about themselves
  };
  /// Another rank waits for this one: answer with what this rank does now. After a tenth of the
  /// failure timeout the report goes out without it.
  struct Ask {
    uint32_t query = 0;
    SetId set = 0;
    std::string name;
  };
  /// An operation whose values came with the control frames.
  struct Result {
    Handle handle = 0;
    Seq seq = 0;  ///< of its decision; 0: it is not known yet
    SetId set = 0;
    std::string values;  ///< as runtime/carried.h has them
  };
  Recycled<Send> sends;
  Recycled<Plan> plans;  ///< for the lanes, in this order
  Recycled<Result> results;
  std::vector<Completion> completions;
  std::vector<Stall> stalls;
  std::vector<Ask> asks;
  bool aborted = false;  ///< the epoch ended badly: lanes must abort and complete what they hold
  Abort why;
  bool closed = false;  ///< nothing more will ever come
  Time wake_at = kNever;

  void clear();
};

/// One rank's control plane as a pure state machine: no I/O, clock, thread or randomness.
///
/// A submitted request completes exactly once: by Completion, or by the lanes after its first slice
/// was in a Plan. A step on cached names allocates nothing once everything has its working size.
///
/// Threads: the token holder, one at a time. Errors: a caller's mistake completes its handle with
/// kInvalidArgument; a malformed or impossible message ends the epoch, naming who sent it.
class Negotiator {
 public:
  Negotiator(const Position& at, int world, uint32_t epoch, const Options& options, Time now);

  /// Clears `out` and fills it.
  void step(Time now, const Inputs& in, Outputs& out);

  const PlanCache& cache() const { return cache_; }
  /// The ranks of a set, ascending, or null. A removed set is still found right after the step that
  /// removed it, for that step's plans.
  const std::vector<Rank>* members(SetId set) const;
  Seq applied() const { return applied_; }
  /// It waits, unannounced, for the rest of its bucket.
  bool lingers(const Submission& submission) const {
    return pending_.lingering(&submission) != Pending::kNone;
  }
  /// Over the entries about the world that this rank has applied: equal at equal positions.
  uint64_t digest() const { return digest_; }

 private:
  struct Set {
    std::vector<Rank> ranks;
    bool mine = false, joined = false, removed = false;
    Handle join = 0;
  };

  // negotiator.cc: what the engine and the neighbors say.
  void submit(const Submission& submission);
  Status refusal(const Submission& submission) const;
  void announce(uint32_t index);
  void push(uint32_t index);
  void push_all(const std::function<bool(const Submission&)>& which);
  void join(const Join& join);
  void leave();
  void receive(const Inputs::Message& message);
  void receive_up(size_t slot, Rank from);
  void receive_ahead(const Ahead& ahead);
  bool credible(size_t slot) const;
  bool credible_values(const Signature& signature, std::string_view values, size_t slot) const;
  void pump();
  void gather();
  void flush_sends();
  void flush_log(size_t child);
  void send_ahead(size_t child, ItemId id, std::string_view values);
  void meet(ItemId id);
  void stalls();
  void watch_neighbors();
  std::string where(Rank rank) const;
  void abort(const Abort& why, Rank except);
  void violated(Rank sender, const std::string& what);
  std::string witness(Rank culprit) const;
  Set* find_set(SetId set);
  bool in_set(SetId set) const;
  std::string& next_send(Rank to);

  // negotiator_apply.cc: what the log says.
  void apply(const Entry& entry, std::string_view raw);
  void forward(const Entry& entry, std::string_view raw);
  void apply_run(const Entry& entry);
  void apply_settled(const Entry& entry);
  void apply_carried(const Entry& entry, ItemId id, const PlanCache::Item& item);
  void announce_again(Foresight::Ended& ended);
  void fill_slices(const Entry& entry, std::vector<Slice>& slices);
  void check_slice(const Entry& entry, const Slice& slice);
  void hand_over(const Entry& entry, Slice& slice);
  void apply_bucket(const Entry& entry);
  void apply_reset(const Entry& entry);
  void apply_set_added(const Entry& entry);
  void apply_set_removed(const Entry& entry);
  void apply_join_done(const Entry& entry);
  void apply_stall_ask(const Entry& entry);
  void apply_stall_report(const Entry& entry);
  void apply_shutdown();
  void be_quiet();
  bool any_behind(SetId set) const;
  void finish(uint32_t index, const Status& status, int64_t value = 0);
  void finish_name(SetId set, std::string_view name, const Status& status, int64_t value = 0);
  void finish_all(const Status& status);

  const Position at_;
  const int world_;
  const uint32_t epoch_;
  const Options options_;
  PlanCache cache_;
  Gatherer gatherer_;
  std::unique_ptr<Sequencer> sequencer_;  ///< at the root only
  Neighbors neighbors_;
  StallQuestions questions_;
  Pending pending_;
  Foresight foresight_;
  std::map<SetId, Set> sets_;
  std::unordered_map<ItemId, size_t> filled_;  ///< lingering members of each bucket

  uint32_t generation_ = 0;
  Seq applied_ = 0;
  uint64_t digest_ = 0;
  bool leaving_ = false, dead_ = false, any_removed_ = false;
  Status dead_status_;
  Time leave_deadline_ = kNever;
  Time stall_check_ = kNever;  ///< no undecided request has anything to ask before this

  Time now_ = 0;
  Outputs* out_ = nullptr;         ///< of the current step
  Up up_;                          ///< to the parent; at the root what waits for the sequencer
  Up received_, complete_;         ///< used again in each step
  Entry entry_;                    ///< used again for each entry received
  std::string raw_;                ///< used again for each entry appended
  std::string values_;             ///< used again for each carried operation
  std::vector<std::string> down_;  ///< a log frame being written for each child; empty if none
};

}  // namespace hora
