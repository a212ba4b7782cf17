#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/plan_cache.h"
#include "runtime/slot_set.h"
#include "runtime/tree.h"
#include "runtime/wire.h"

namespace hora {

/// One node of the reduction tree: counts what its slots (itself and its children) are ready for,
/// and hands on each item once, when every slot has spoken or is quiet.
///
/// Invariants. (1) A slot speaks at most once for an item between two runs of it; (2) an item is
/// handed on only when each slot with members has spoken or is quiet, and at least one has spoken;
/// (3) a quiet slot never speaks again for that set until join_done or clear. Together: no count is
/// ever left over from an earlier run, so the root decides each run from exactly one announcement
/// of each member. A slot that breaks (1) or (3) is reported by violation().
///
/// A bucket's bit is shorthand for the bits of its tensors. It is passed on as shorthand only if
/// every slot used it; one loose tensor turns the others' shorthand into loose tensors at this
/// node.
///
/// Threads: its negotiator's.
class Gatherer {
 public:
  Gatherer(const Position& at, const PlanCache& cache) : at_(at), cache_(cache) {}

  void add_set(SetId set, const std::vector<Rank>& members);
  void remove_set(SetId set);
  bool has_members(SetId set, size_t slot) const;

  /// `values`: of a carried operation, what the slot contributes.
  void ready(size_t slot, ItemId id, bool partial, std::string_view values = {});
  void declare(size_t slot, const Declare& declare);
  void quiet(size_t slot, SetId set, Rank last);

  void join_done(SetId set);
  void bucket_defined(ItemId bucket);
  void forget(ItemId id);  ///< the name is about to be defined anew
  void clear();            ///< a new generation: forgets all announcements, keeps the sets

  /// Appends what became complete since the last call.
  void take(Up& into);

  /// At the root: calls visit(slot, id, values) for each carried operation that since the last call
  /// has come to wait for nobody but one child on another host, with the others' values. Once for
  /// each run.
  template <class Visit>
  void take_ahead(Visit visit) {
    for (const ItemId id : ahead_) {
      const auto it = ids_.find(id);
      if (it != ids_.end() && it->second.told_ahead)
        visit(it->second.missing, id, it->second.values);
    }
    ahead_.clear();
  }

  struct Violation {
    size_t slot = 0;
    std::string what;
  };
  /// The first broken invariant.
  const std::optional<Violation>& violation() const { return violation_; }

 private:
  struct Gathering {
    SlotSet said;
    uint32_t count = 0;  ///< slots that said it
    uint32_t loose = 0;  ///< of a bucket: its tensors that some slot announced by themselves
    bool partial = false;
    int16_t priority = 0;
    uint32_t by_bit = 0;  ///< ranks below the slots that announced the cached signature
    Rank first_by_bit = 0;
    std::string values;       ///< of a carried operation, of those who spoke
    bool told_ahead = false;  ///< `missing`, the only slot that has not spoken, gets them
    size_t missing = 0;
    std::vector<Variant> variants;  ///< announced with a signature; empty in the steady state
  };
  struct Slot {
    uint32_t members = 0;
    Rank lowest = 0;
  };
  struct Set {
    std::vector<Slot> slots;
    uint32_t needed = 0;  ///< slots with members
    SlotSet quiet;
    uint32_t quiet_count = 0;
    Rank last = 0;
    bool told = false;
  };
  using Key = std::pair<SetId, std::string>;

  void fault(size_t slot, std::string what);
  bool may_speak(const Set& set, size_t slot);
  bool speak(const Set& set, Gathering& gathering, size_t slot, bool partial);
  bool speak_tensor(const Set& set, ItemId id, ItemId bucket, size_t slot, bool partial);
  bool complete(const Set& set, const Gathering& gathering) const;
  void break_bucket(const Set& set, ItemId bucket);
  void check_id(const Set& set, ItemId id);
  void check_name(const Set& set, const Key& key);
  void reset(ItemId bucket, Gathering& gathering);
  void recheck(SetId id, const Set& set);
  void look_ahead(const Set& set, ItemId id);

  const Position& at_;
  const PlanCache& cache_;
  std::map<SetId, Set> sets_;
  std::unordered_map<ItemId, Gathering> ids_;  ///< kept between runs, with their memory
  std::map<Key, Gathering> names_;             ///< ordered, so that recheck() is deterministic
  Up out_;
  std::vector<ItemId> ahead_;
  std::optional<Violation> violation_;
};

}  // namespace hora
