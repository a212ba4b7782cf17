#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/name_index.h"
#include "runtime/vocabulary.h"

namespace hora {

/// The operations seen before, by name and by number. A replicated state machine: it changes only
/// when a log entry is applied, so at equal log positions all members of a set hold equal items.
///
/// Ownership: references to items are good until the next define or drop. What a log entry replaces
/// or drops stays readable by find(ItemId) until the next purge(), which the negotiator calls when
/// its next step begins: the plans of a step can always be looked up right after it.
class PlanCache {
 public:
  struct Item {
    bool live = false;  ///< may be announced; false: replaced or dropped since the last purge
    SetId set = 0;
    std::string name;
    Signature signature;
    int16_t priority = 0;
    bool carried = false;         ///< its values travel inside of control frames
    uint64_t count = 0;           ///< elements
    uint64_t hash = 0;            ///< of set and name, as NameIndex makes it
    ItemId bucket = 0;            ///< the stable bucket this operation travels in, or 0
    std::vector<ItemId> tensors;  ///< a bucket's operations in slot order; empty for an operation
    bool is_bucket() const { return !tensors.empty(); }
  };

  /// Ids given out between two drops of everything never span more than this.
  static constexpr ItemId kMaxSpan = 1 << 22;

  const Item* find(ItemId id) const {
    const uint32_t slot = slot_of(id);
    return slot == kNone ? nullptr : &items_[slot];
  }
  const Item* live(ItemId id) const {
    const Item* item = find(id);
    return item && item->live ? item : nullptr;
  }
  ItemId find(SetId set, std::string_view name) const {
    return find(set, name, NameIndex::hash(set, name));
  }
  ItemId find(SetId set, std::string_view name, uint64_t hash) const;

  size_t names() const { return names_.count(); }
  ItemId span() const { return static_cast<ItemId>(slots_.size()) - (floor_ - base_); }
  ItemId next_id() const { return base_ + static_cast<ItemId>(slots_.size()); }
  /// An id that a define may use: new, and not absurdly far ahead.
  bool acceptable(ItemId id) const { return id >= next_id() && id - floor_ < kMaxSpan; }

  /// Replaces an older item of the same name.
  void define(ItemId id, SetId set, std::string_view name, const Signature& signature,
              int16_t priority, bool carried = false);
  /// `tensors` are live operations of `set` that are in no bucket.
  void define_bucket(ItemId id, SetId set, std::vector<ItemId> tensors);
  void drop_buckets();
  void drop_all(ItemId next);  ///< ids go on from `next`
  void drop_set(SetId set);
  void purge();

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t slot_of(ItemId id) const {
    return id >= base_ && id - base_ < slots_.size() ? slots_[id - base_] : kNone;
  }
  Item& make(ItemId id);
  void retire(ItemId id);

  ItemId base_ = 1;              ///< id of slots_[0]
  ItemId floor_ = 1;             ///< ids below were dropped with all others
  std::vector<uint32_t> slots_;  ///< id - base_ to item
  std::deque<Item> items_;       ///< used again after a purge
  std::vector<uint32_t> free_;
  std::vector<ItemId> retired_;
  NameIndex names_;  ///< to ids
};

}  // namespace hora
