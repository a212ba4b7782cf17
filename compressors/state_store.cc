#include "compressors/state_store.h"

#include <algorithm>
#include <cmath>

namespace hora {
namespace {

bool same(const Extent& a, const Extent& b) {
  return a.id == b.id && a.rows == b.rows && a.columns == b.columns;
}

bool same(const Sharing& a, const Sharing& b) {
  return a.recodes == b.recodes && a.rank == b.rank && a.size == b.size && a.shard == b.shard;
}

/// With a count of 0 if there is none.
Shard overlap(const Shard& a, const Shard& b) {
  const uint64_t first = std::max(a.first, b.first), end = std::min(a.end(), b.end());
  return {first, end > first ? end - first : 0};
}

bool is_owed(Law law) {
  return law == Law::kPending || law == Law::kOwned;
}

std::vector<SavedSlab> saved_slabs(const TensorState& state) {
  std::vector<SavedSlab> slabs;
  for (const bool owned : {false, true}) {
    for (const State::Slab& slab : (owned ? state.owned : state.mine).slabs) {
      if (slab.spec.law == Law::kScratch || slab.size() == 0) continue;
      slabs.push_back({owned, slab.spec.name, slab.spec.law, slab.wide()});
    }
  }
  return slabs;
}

void fill_zeros(State& state) {
  for (State::Slab& slab : state.slabs) {
    std::fill(slab.values.begin(), slab.values.end(), 0.0f);
    std::fill(slab.halves.begin(), slab.halves.end(), uint16_t{0});
  }
}

}  // namespace

TensorState& StateStore::get(SetId set, std::string_view tensor, const Codec& codec,
                             std::string_view chain, const Sharing& shared, const Codec* down) {
  auto found = entries_.find(std::pair(set, tensor));
  if (found == entries_.end()) found = entries_.emplace(Key(set, tensor), Entry()).first;
  Entry& entry = found->second;
  const Extent& extent = codec.extent();
  Sharing sharing = shared;
  sharing.shard = shared.shard.within(extent.count());
  entry.sharing.averages = sharing.averages;
  const bool renewed =
      entry.chain != chain || !same(entry.extent, extent) || entry.sharing.shard != sharing.shard;
  if (!renewed && same(entry.sharing, sharing)) return entry.state;
  if (renewed) {
    forget(entry.state.mine);
    entry.state.mine = make_state(codec, sharing.shard.first, sharing.shard.count);
    entry.state.step = 0;
    entry.state.rate = 0;
    entry.chain = chain;
    entry.extent = extent;
    entry.granule = granule_of(codec, down);
  }
  forget(entry.state.owned);
  const Stripes stripes(extent.id, sharing.shard, entry.granule, sharing.size);
  entry.state.owned = make_state(down ? *down : codec, 0,
                                 sharing.recodes ? stripes.owned(sharing.rank) : size_t{0});
  entry.sharing = sharing;
  for (State::Slab& slab : entry.state.owned.slabs) {
    if (slab.spec.law == Law::kPending) slab.spec.law = Law::kOwned;
  }
  if (auto waiting = loaded_.extract(found->first)) adopt(entry, std::move(waiting.mapped()));
  return entry.state;
}

void StateStore::adopt(Entry& entry, std::vector<Part> parts) {
  bool begun = false;
  for (Part& part : parts) {
    SavedState& saved = part.saved;
    const bool here = saved.rank % entry.sharing.size == entry.sharing.rank &&
                      overlap(saved.shard, entry.sharing.shard).count > 0;
    const bool takes = part.ours || here;
    if (saved.chain != entry.chain) {
      if (!takes) continue;
      for (const SavedSlab& slab : saved.slabs) {
        if (is_owed(slab.law)) lose(slab.values);
      }
      continue;
    }
    entry.state.step = saved.step;
    entry.state.rate = saved.rate;
    if (!takes || saved.slabs.empty()) continue;
    if (!std::exchange(begun, true)) {
      fill_zeros(entry.state.mine);
      fill_zeros(entry.state.owned);
    }
    if (saved.rank == entry.sharing.rank && saved.size == entry.sharing.size &&
        saved.shard == entry.sharing.shard) {
      restore(entry, saved);
    } else {
      succeed(entry, saved, part.ours);
    }
  }
}

/// The same rank of as many ranks: all as it was.
void StateStore::restore(Entry& entry, SavedState& part) {
  for (SavedSlab& slab : part.slabs) {
    State::Slab* const target = (slab.owned ? entry.state.owned : entry.state.mine).slab(slab.name);
    if (target && target->size() == slab.values.size()) {
      target->set(slab.values);
    } else if (is_owed(slab.law)) {
      lose(slab.values);
    }
  }
}

/// Adds what `part` owed, which was another rank's or shard's, or one's of another number of ranks.
void StateStore::succeed(Entry& entry, const SavedState& part, bool ours) {
  const float factor = entry.sharing.averages
                           ? static_cast<float>(entry.sharing.size) / static_cast<float>(part.size)
                           : 1.0f;
  const Shard &shard = part.shard, both = overlap(shard, entry.sharing.shard);
  const Stripes stripes(entry.extent.id, shard, entry.granule, part.size);
  for (const SavedSlab& slab : part.slabs) {
    if (!is_owed(slab.law)) continue;
    State::Slab* const target = entry.state.mine.slab(slab.name);
    const size_t expected = slab.owned ? stripes.owned(part.rank) : shard.count;
    if (!target || target->size() != entry.sharing.shard.count ||
        shard.end() > entry.extent.count() || slab.values.size() != expected) {
      lose(slab.values);
      continue;
    }
    // An owner's debt is one to the sum over all ranks, as a rank's own is.
    for (uint64_t i = shard.first; i < shard.end();) {
      const uint64_t end = slab.owned ? stripes.end(i) : shard.end();
      const bool here = !slab.owned || stripes.owner(i) == part.rank;
      const float* from = slab.values.data() + (slab.owned ? stripes.slot(i) : 0);
      for (; here && i < end; ++i, ++from) {
        if (i >= both.first && i < both.end())
          target->add(i - entry.sharing.shard.first, factor * *from);
        else if (ours)
          lose({from, 1});
      }
      i = end;
    }
  }
}

void StateStore::forget(const State& state) {
  for (const State::Slab& slab : state.slabs) {
    if (is_owed(slab.spec.law)) lose(slab.wide());
  }
}

void StateStore::lose(std::span<const float> values) {
  for (const float value : values) lost_ += std::fabs(value);
}

double StateStore::owed(SetId set, std::string_view tensor) const {
  const auto found = entries_.find(std::pair(set, tensor));
  if (found == entries_.end()) return 0;
  double squares = 0;
  for (const State* state : {&found->second.state.mine, &found->second.state.owned}) {
    for (const State::Slab& slab : state->slabs) {
      if (!is_owed(slab.spec.law)) continue;
      for (const float value : slab.wide()) squares += double{value} * value;
    }
  }
  return std::sqrt(squares);
}

std::vector<SavedState> StateStore::save(SetId set, std::string_view tensor, bool slabs) const {
  std::vector<SavedState> list;
  const std::pair key(set, tensor);
  if (const auto found = entries_.find(key); found != entries_.end()) {
    const Entry& entry = found->second;
    list.push_back({set, found->first.second, entry.chain, entry.sharing.rank, entry.sharing.size,
                    entry.sharing.shard, entry.state.step, entry.state.rate,
                    slabs ? saved_slabs(entry.state) : std::vector<SavedSlab>()});
  }
  const auto waiting = loaded_.find(key);
  for (size_t i = 0; waiting != loaded_.end() && i < waiting->second.size(); ++i) {
    list.push_back(waiting->second[i].saved);
    if (!slabs) list.back().slabs.clear();
  }
  return list;
}

std::vector<SavedState> StateStore::save() const {
  std::vector<SavedState> list;
  const auto add = [&](const Key& key) {
    for (SavedState& state : save(key.first, key.second)) list.push_back(std::move(state));
  };
  for (const auto& [key, entry] : entries_) add(key);
  for (const auto& [key, parts] : loaded_) add(key);
  return list;
}

void StateStore::load(std::vector<SavedState> parts, bool ours) {
  std::map<Key, std::vector<Part>, Less> by_tensor;
  for (SavedState& part : parts) {
    by_tensor[Key(part.set, part.tensor)].push_back({std::move(part), ours});
  }
  for (auto& [key, fresh] : by_tensor) {
    const auto entry = entries_.find(key);
    if (entry != entries_.end()) {
      adopt(entry->second, std::move(fresh));
    } else {
      std::vector<Part>& waiting = loaded_[key];
      // Clocks alone leave the slabs that wait as they are.
      const bool replaces = std::any_of(fresh.begin(), fresh.end(),
                                        [](const Part& part) { return !part.saved.slabs.empty(); });
      if (replaces) waiting.clear();
      for (Part& part : fresh) waiting.push_back(std::move(part));
    }
  }
}

void StateStore::remove(SetId set) {
  std::erase_if(entries_, [&](const auto& entry) { return entry.first.first == set; });
  std::erase_if(loaded_, [&](const auto& entry) { return entry.first.first == set; });
}

void StateStore::clear() {
  entries_.clear();
  loaded_.clear();
  lost_ = 0;
}

}  // namespace hora
