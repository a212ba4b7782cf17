#include "runtime/gatherer.h"

#include <algorithm>

namespace hora {
namespace {

void merge(std::vector<Variant>& into, const Variant& from) {
  for (Variant& variant : into) {
    if (variant.signature != from.signature) continue;
    variant.rank = std::min(variant.rank, from.rank);
    variant.count += from.count;
    return;
  }
  if (into.size() < Limits::kVariants) into.push_back(from);
}

}  // namespace

void Gatherer::add_set(SetId id, const std::vector<Rank>& members) {
  Set set;
  for (const auto& ranks : at_.slot_ranks) {
    Slot& slot = set.slots.emplace_back();
    for (const Rank rank : ranks) {
      if (!std::binary_search(members.begin(), members.end(), rank)) continue;
      if (slot.members++ == 0) slot.lowest = rank;
    }
    set.needed += slot.members > 0;
  }
  sets_[id] = std::move(set);
}

bool Gatherer::has_members(SetId set, size_t slot) const {
  const auto it = sets_.find(set);
  return it != sets_.end() && it->second.slots[slot].members > 0;
}

void Gatherer::remove_set(SetId set) {
  sets_.erase(set);
  std::erase_if(ids_, [&](const auto& pair) {
    const auto* item = cache_.live(pair.first);
    return !item || item->set == set;
  });
  std::erase_if(names_, [&](const auto& pair) { return pair.first.first == set; });
}

void Gatherer::clear() {
  ids_.clear(), names_.clear();
  for (auto& [id, set] : sets_) set.quiet.clear(), set.quiet_count = 0, set.told = false;
  out_.clear(), ahead_.clear();
}

void Gatherer::forget(ItemId id) {
  const auto it = ids_.find(id);
  if (it == ids_.end()) return;
  if (const auto* item = cache_.live(id)) reset(item->bucket, it->second);
  ids_.erase(id);
}

void Gatherer::bucket_defined(ItemId bucket) {
  Gathering& gathering = ids_[bucket];
  for (const ItemId tensor : cache_.find(bucket)->tensors) {
    const auto it = ids_.find(tensor);
    gathering.loose += it != ids_.end() && it->second.count > 0;
  }
}

void Gatherer::fault(size_t slot, std::string what) {
  if (!violation_) violation_ = Violation{slot, std::move(what)};
}

// Not in speak(), because what a slot said before it joined may be taken apart afterwards.
bool Gatherer::may_speak(const Set& set, size_t slot) {
  if (set.quiet.has(slot)) fault(slot, "announced an operation after it had joined");
  return !set.quiet.has(slot);
}

bool Gatherer::speak(const Set& set, Gathering& gathering, size_t slot, bool partial) {
  const char* wrong = nullptr;
  if (set.slots[slot].members == 0) wrong = "announced for a process set without members there";
  if (gathering.said.has(slot)) wrong = "announced an operation twice";
  if (wrong) {
    fault(slot, wrong);
    return false;
  }
  gathering.said.add(slot);
  ++gathering.count;
  gathering.partial |= partial;
  return true;
}

bool Gatherer::speak_tensor(const Set& set, ItemId id, ItemId bucket, size_t slot, bool partial) {
  Gathering& gathering = ids_[id];
  if (!speak(set, gathering, slot, partial)) return false;
  if (bucket && gathering.count == 1) ++ids_[bucket].loose;
  const Slot& below = set.slots[slot];
  if (gathering.by_bit == 0 || below.lowest < gathering.first_by_bit)
    gathering.first_by_bit = below.lowest;
  gathering.by_bit += below.members;
  return true;
}

bool Gatherer::complete(const Set& set, const Gathering& gathering) const {
  if (gathering.count == 0) return false;
  if (gathering.count == set.needed) return true;
  if (set.quiet_count == 0) return false;
  for (size_t slot = 0; slot < set.slots.size(); ++slot)
    if (set.slots[slot].members > 0 && !gathering.said.has(slot) && !set.quiet.has(slot))
      return false;
  return true;
}

void Gatherer::ready(size_t slot, ItemId id, bool partial, std::string_view values) {
  const auto* item = cache_.live(id);
  if (!item) {  // of a removed set, unless no log entry can have told the sender about it
    if (id == 0 || id >= cache_.next_id())
      fault(slot, "announced an operation that nobody defined");
    return;
  }
  const Set& set = sets_.at(item->set);
  if (!may_speak(set, slot)) return;
  if (!item->is_bucket()) {
    if (item->carried && values.empty())
      return fault(slot, "announced an operation without the values that it carries");
    break_bucket(set, item->bucket);
    if (!speak_tensor(set, id, item->bucket, slot, partial)) return;
    ids_[id].values.append(values);
    check_id(set, id);
    if (item->carried && at_.parent < 0) look_ahead(set, id);
    return;
  }
  Gathering& gathering = ids_[id];
  if (gathering.loose == 0) {
    if (speak(set, gathering, slot, partial)) check_id(set, id);
    return;
  }
  for (const ItemId tensor : item->tensors)
    if (speak_tensor(set, tensor, id, slot, partial)) check_id(set, tensor);
}

void Gatherer::break_bucket(const Set& set, ItemId bucket) {
  if (bucket == 0) return;
  const auto it = ids_.find(bucket);
  if (it == ids_.end() || it->second.count == 0) return;
  const SlotSet said = it->second.said;
  const bool partial = it->second.partial;
  it->second.said.clear(), it->second.count = 0, it->second.partial = false;
  const auto& tensors = cache_.find(bucket)->tensors;
  for (const ItemId tensor : tensors)
    for (size_t slot = 0; slot < set.slots.size(); ++slot)
      if (said.has(slot)) speak_tensor(set, tensor, bucket, slot, partial);
  for (const ItemId tensor : tensors) check_id(set, tensor);
}

void Gatherer::declare(size_t slot, const Declare& declare) {
  const auto it = sets_.find(declare.set);
  if (it == sets_.end()) return;
  const Set& set = it->second;
  if (!may_speak(set, slot)) return;
  const ItemId id = cache_.find(declare.set, declare.name);
  const ItemId bucket = id ? cache_.find(id)->bucket : 0;
  break_bucket(set, bucket);
  Gathering& gathering = id ? ids_[id] : names_[{declare.set, declare.name}];
  if (!speak(set, gathering, slot, declare.partial)) return;
  if (bucket && gathering.count == 1) ++ids_[bucket].loose;
  gathering.priority = declare.priority;
  for (const Variant& variant : declare.variants) merge(gathering.variants, variant);
  gathering.values.append(declare.values);
  if (id)
    check_id(set, id);
  else
    check_name(set, {declare.set, declare.name});
}

void Gatherer::reset(ItemId bucket, Gathering& gathering) {
  if (bucket && gathering.count > 0) --ids_.at(bucket).loose;
  gathering.said.clear(), gathering.count = 0, gathering.partial = false;
  gathering.variants.clear(), gathering.by_bit = 0;
  gathering.values.clear(), gathering.told_ahead = false;
}

void Gatherer::check_id(const Set& set, ItemId id) {
  const auto it = ids_.find(id);
  if (it == ids_.end() || !complete(set, it->second)) return;
  Gathering& gathering = it->second;
  const auto& item = *cache_.find(id);
  const bool partial = gathering.partial || gathering.count < set.needed;
  if (gathering.variants.empty() && item.carried) {
    Carried& carried = out_.carried.next();
    carried.id = id, carried.partial = partial;
    carried.values.swap(gathering.values);
  } else if (gathering.variants.empty()) {
    (partial ? out_.partial : out_.full).push_back(id);
  } else {
    if (gathering.by_bit)
      merge(gathering.variants, {gathering.first_by_bit, gathering.by_bit, item.signature});
    out_.declares.push_back({item.set, item.name, partial, gathering.priority,
                             std::move(gathering.variants), std::move(gathering.values)});
  }
  reset(item.bucket, gathering);
}

// Its members on this side of the link have all promised to take part, and so will those beyond it
// who announce it: they need not hear that back first.
void Gatherer::look_ahead(const Set& set, ItemId id) {
  const auto it = ids_.find(id);
  if (it == ids_.end() || set.quiet_count > 0) return;
  Gathering& gathering = it->second;
  if (gathering.told_ahead || gathering.partial || !gathering.variants.empty()) return;
  if (gathering.count == 0 || gathering.count + 1 != set.needed) return;
  size_t slot = 0;
  while (set.slots[slot].members == 0 || gathering.said.has(slot)) ++slot;
  if (!at_.far[slot]) return;
  gathering.told_ahead = true, gathering.missing = slot;
  ahead_.push_back(id);
}

void Gatherer::check_name(const Set& set, const Key& key) {
  const auto it = names_.find(key);
  Gathering& gathering = it->second;
  if (!complete(set, gathering)) return;
  const bool partial = gathering.partial || gathering.count < set.needed;
  out_.declares.push_back({key.first, key.second, partial, gathering.priority,
                           std::move(gathering.variants), std::move(gathering.values)});
  names_.erase(it);
}

void Gatherer::quiet(size_t slot, SetId id, Rank last) {
  const auto it = sets_.find(id);
  if (it == sets_.end()) return;
  Set& set = it->second;
  if (set.slots[slot].members == 0)
    return fault(slot, "joined a process set without members there");
  if (set.quiet.has(slot)) {  // this rank may join and then leave
    if (slot != 0) fault(slot, "joined twice");
    return;
  }
  set.quiet.add(slot);
  ++set.quiet_count;
  set.last = last;
  recheck(id, set);
  if (set.quiet_count < set.needed || set.told) return;
  set.told = true;
  out_.quiet.push_back({id, set.last});
}

void Gatherer::recheck(SetId id, const Set& set) {
  std::vector<ItemId> ids;
  for (const auto& [each, gathering] : ids_) {
    const auto* item = cache_.live(each);
    if (gathering.count > 0 && item && item->set == id) ids.push_back(each);
  }
  std::sort(ids.begin(), ids.end());
  for (const ItemId each : ids) check_id(set, each);
  std::vector<Key> keys;
  for (auto it = names_.lower_bound({id, ""}); it != names_.end() && it->first.first == id; ++it)
    keys.push_back(it->first);
  for (const Key& key : keys) check_name(set, key);
}

void Gatherer::join_done(SetId id) {
  const auto it = sets_.find(id);
  if (it == sets_.end()) return;
  it->second.quiet.clear(), it->second.quiet_count = 0, it->second.told = false;
}

void Gatherer::take(Up& into) {
  const auto move_all = [](auto& from, auto& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
    from.clear();
  };
  std::sort(out_.full.begin(), out_.full.end());
  std::sort(out_.partial.begin(), out_.partial.end());
  move_all(out_.full, into.full), move_all(out_.partial, into.partial);
  for (Carried& from : out_.carried) {
    Carried& to = into.carried.next();
    to.id = from.id, to.partial = from.partial;
    to.values.swap(from.values);
  }
  out_.carried.clear();
  move_all(out_.declares, into.declares), move_all(out_.quiet, into.quiet);
}

}  // namespace hora
