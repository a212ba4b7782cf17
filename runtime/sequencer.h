#pragma once

#include <array>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fusion/bucketer.h"
#include "runtime/plan_cache.h"
#include "runtime/step_learner.h"
#include "runtime/wire.h"

namespace hora {

/// The root's half of the protocol: turns complete items into log entries. The only place where an
/// order, a bucket, a lane or an error text is chosen, so ranks need to compute nothing alike.
///
/// Threads: its negotiator's. Ownership: `append` applies an entry at once and keeps nothing of it.
class Sequencer {
 public:
  using Append = std::function<void(Entry&)>;
  Sequencer(const Options& options, const PlanCache& cache, Rank me, int world, Append append);

  void decide(const Up& complete);  ///< what the root's gatherer handed on
  void leaving(Rank rank);
  void stall(const StallQuery& query);
  void missing(const Missing& answer);
  void finished(Seq plan);  ///< the root's own lane is done with it
  void issue();             ///< hands out as much as the lanes have room for; resets if wanted

  Seq last_seq() const { return next_seq_ - 1; }

 private:
  struct Set {
    std::vector<Rank> ranks;
    bool mine = false;
  };
  struct Outstanding {
    Seq seq = 0;
    bool express = false;
    uint64_t bytes = 0;
  };

  Entry& entry(Entry::Kind kind, SetId set = 0);
  void append();
  void enqueue(ItemId id, bool partial, std::string_view values = {});
  void decide(const Declare& declare);
  ItemId define(const Declare& declare);
  void add_set(const Declare& declare);
  void remove_set(const Declare& declare);
  void joined(const Quiet& quiet);
  bool refused(const Declare& declare);
  void run(const Bucket& bucket);
  void learn(ItemId id, bool loose);
  void make_buckets(SetId set, uint16_t domain);
  void drain();
  void reset();
  void fail(SetId set, std::string_view name, Code code, std::string text);
  const ReadyWork& work_of(ItemId id);
  Rank left_of(SetId set) const;  ///< the lowest member that has shut down, or -1

  const Options& options_;
  const PlanCache& cache_;
  const Rank me_;
  const int world_;
  const Append append_;
  Bucketer bucketer_;
  StepLearner learner_;
  std::unordered_map<ItemId, ReadyWork> work_;
  std::map<SetId, Set> sets_;
  std::set<Rank> left_;
  bool shut_ = false, wants_reset_ = false, drop_names_ = false;
  uint32_t generation_ = 0, next_query_ = 1;
  SetId next_set_ = 1;
  ItemId next_id_ = 1;
  Seq next_seq_ = 1;
  std::map<uint32_t, StallQuery> queries_;
  std::vector<Outstanding> outstanding_;
  std::array<uint64_t, 2> bytes_under_way_{};  ///< on all lanes but the express lane; on that one
  Entry entry_;                                ///< used again for each entry
  Bucket bucket_;                              ///< used again for each bucket
};

}  // namespace hora
