#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/vocabulary.h"

namespace hora {

/// Learns, at the root, in which order the gradients of one optimizer become ready, and whether the
/// stable buckets made of it hold. A step has no marker: it ends when a gradient comes round again.
///
/// Threads: its sequencer's.
class StepLearner {
 public:
  enum class Verdict : uint8_t {
    kNothing,
    kLearned,  ///< a whole step's order() is known: make buckets of it
    kUnlearn,  ///< buckets were broken `patience` steps in a row: drop them; patience doubles
  };

  /// An operation of (set, domain) runs; `loose`: by itself although it belongs to a bucket.
  Verdict run(SetId set, uint16_t domain, ItemId id, bool loose);

  /// The ids of the step that was just learned.
  const std::vector<ItemId>& order(SetId set, uint16_t domain) const;

  void reset();  ///< buckets and orders are void; patience stays
  void forget(SetId set);

 private:
  struct Domain {
    std::vector<ItemId> order, learned;
    std::unordered_map<ItemId, uint64_t> seen;  ///< id to the step in which it last ran
    uint64_t step = 1;
    bool bucketed = false, loose = false;
    int bad_steps = 0, patience = 2;
  };
  Verdict end_step(Domain& domain);

  std::map<std::pair<SetId, uint16_t>, Domain> domains_;
};

}  // namespace hora
