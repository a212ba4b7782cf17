#include "runtime/plan_cache.h"

#include <utility>

namespace hora {

ItemId PlanCache::find(SetId set, std::string_view name, uint64_t hash) const {
  const uint32_t id = names_.find(hash, [&](uint32_t each) {
    const Item& item = items_[slots_[each - base_]];
    return item.set == set && item.name == name;
  });
  return id == NameIndex::kNone ? 0 : id;
}

PlanCache::Item& PlanCache::make(ItemId id) {
  if (id - base_ >= slots_.size()) slots_.resize(id - base_ + 1, kNone);
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(items_.size()));
    items_.emplace_back();
  }
  slots_[id - base_] = free_.back();
  free_.pop_back();
  Item& item = items_[slots_[id - base_]];
  item = {};
  item.live = true;
  return item;
}

void PlanCache::retire(ItemId id) {
  Item& item = items_[slot_of(id)];
  if (!std::exchange(item.live, false)) return;
  if (!item.is_bucket()) names_.remove(item.hash, id);
  retired_.push_back(id);
}

void PlanCache::define(ItemId id, SetId set, std::string_view name, const Signature& signature,
                       int16_t priority, bool carried) {
  const uint64_t hash = NameIndex::hash(set, name);
  if (const ItemId old = find(set, name, hash)) retire(old);
  Item& item = make(id);
  item.set = set, item.name = name, item.signature = signature, item.priority = priority;
  item.carried = carried;
  item.count = count_of(signature), item.hash = hash;
  names_.add(hash, id);
}

void PlanCache::define_bucket(ItemId id, SetId set, std::vector<ItemId> tensors) {
  for (const ItemId tensor : tensors) items_[slot_of(tensor)].bucket = id;
  Item& item = make(id);
  item.set = set, item.tensors = std::move(tensors);
}

void PlanCache::drop_buckets() {
  for (ItemId id = floor_; id < next_id(); ++id) {
    const uint32_t slot = slot_of(id);
    if (slot == kNone) continue;
    items_[slot].bucket = 0;
    if (items_[slot].is_bucket()) retire(id);
  }
}

void PlanCache::drop_all(ItemId next) {
  for (ItemId id = floor_; id < next_id(); ++id)
    if (slot_of(id) != kNone) retire(id);
  slots_.resize(next - base_, kNone);
  floor_ = next;
}

void PlanCache::drop_set(SetId set) {
  for (ItemId id = floor_; id < next_id(); ++id)
    if (const uint32_t slot = slot_of(id); slot != kNone && items_[slot].set == set) retire(id);
}

void PlanCache::purge() {
  for (const ItemId id : retired_) free_.push_back(std::exchange(slots_[id - base_], kNone));
  retired_.clear();
  if (floor_ == base_) return;
  slots_.erase(slots_.begin(), slots_.begin() + (floor_ - base_));
  base_ = floor_;
}

}  // namespace hora
