// The saved form of a list of slabs, little-endian:
//
//   list = "HORASLAB" u32 version(1) u64 count *slab
//   slab = u32 set, text tensor, text chain, u8 owned, i32 rank, i32 size, text slab, u8 law,
//          u64 count, f32 values[count]
//   text = u32 bytes, characters

#include "compressors/state_store.h"

#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stripes.h"

namespace hora {
namespace {

constexpr std::string_view kMagic = "HORASLAB";
constexpr uint32_t kVersion = 1;

class Writer {
 public:
  template <class Number>
  void number(Number value) {
    raw(&value, sizeof(value));
  }
  void text(std::string_view value) {
    number(static_cast<uint32_t>(value.size()));
    raw(value.data(), value.size());
  }
  void raw(const void* data, size_t bytes) { out_.append(static_cast<const char*>(data), bytes); }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// Stays failed after the first read beyond the end.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <class Number>
  Number number() {
    Number value{};
    raw(&value, sizeof(value));
    return value;
  }
  std::string text() {
    std::string value(claim(number<uint32_t>(), 1), '\0');
    raw(value.data(), value.size());
    return value;
  }
  std::vector<float> floats() {
    std::vector<float> values(claim(number<uint64_t>(), sizeof(float)));
    raw(values.data(), values.size() * sizeof(float));
    return values;
  }
  bool good() const { return good_; }
  bool done() const { return good_ && left_.empty(); }

 private:
  size_t claim(uint64_t count, size_t width) {
    if (count > left_.size() / width) good_ = false;
    return good_ ? static_cast<size_t>(count) : 0;
  }
  void raw(void* to, size_t bytes) {
    if (!good_ || bytes > left_.size()) {
      good_ = false;
      return;
    }
    if (bytes > 0) std::memcpy(to, left_.data(), bytes);
    left_.remove_prefix(bytes);
  }
  std::string_view left_;
  bool good_ = true;
};

bool same(const Extent& a, const Extent& b) {
  return a.id == b.id && a.rows == b.rows && a.columns == b.columns;
}

}  // namespace

TensorState& StateStore::get(SetId set, std::string_view tensor, const Codec& codec,
                             std::string_view chain, bool recodes, int rank, int size) {
  auto found = entries_.find(std::pair(set, tensor));
  if (found == entries_.end()) found = entries_.emplace(Key(set, tensor), Entry()).first;
  Entry& entry = found->second;
  const bool renewed = entry.chain != chain || !same(entry.extent, codec.extent());
  const bool moved =
      renewed || entry.recodes != recodes || entry.rank != rank || entry.size != size;
  if (!moved) return entry.state;
  if (renewed) {
    forget(entry.state.mine);
    entry.state.mine = make_state(codec, 0, codec.extent().count());
    entry.chain = chain;
    entry.extent = codec.extent();
  }
  forget(entry.state.owned);
  const Stripes stripes(codec.extent().id, codec.extent().count(), codec.granule(), size);
  entry.state.owned = make_state(codec, 0, recodes ? stripes.owned(rank) : 0);
  entry.recodes = recodes;
  entry.rank = rank;
  entry.size = size;
  for (State::Slab& slab : entry.state.owned.slabs) {
    if (slab.spec.law == Law::kPending) slab.spec.law = Law::kOwned;
  }
  adopt(found->first, entry);
  return entry.state;
}

void StateStore::adopt(const Key& key, Entry& entry) {
  const auto waiting = loaded_.find(key);
  if (waiting == loaded_.end()) return;
  for (SavedSlab& saved : waiting->second) {
    State& state = saved.owned ? entry.state.owned : entry.state.mine;
    State::Slab* target = nullptr;
    for (State::Slab& slab : state.slabs) {
      if (slab.spec.name == saved.slab) target = &slab;
    }
    if (target && saved.chain == entry.chain && target->values.size() == saved.values.size()) {
      target->values = std::move(saved.values);
    } else {
      for (const float value : saved.values) lost_ += std::fabs(value);
    }
  }
  loaded_.erase(waiting);
}

void StateStore::forget(const State& state) {
  for (const State::Slab& slab : state.slabs) {
    if (slab.spec.law != Law::kPending && slab.spec.law != Law::kOwned) continue;
    for (const float value : slab.values) lost_ += std::fabs(value);
  }
}

double StateStore::owed(SetId set, std::string_view tensor) const {
  const auto found = entries_.find(std::pair(set, tensor));
  if (found == entries_.end()) return 0;
  double squares = 0;
  for (const State* state : {&found->second.state.mine, &found->second.state.owned}) {
    for (const State::Slab& slab : state->slabs) {
      if (slab.spec.law != Law::kPending && slab.spec.law != Law::kOwned) continue;
      for (const float value : slab.values) squares += double{value} * value;
    }
  }
  return std::sqrt(squares);
}

std::vector<SavedSlab> StateStore::save() const {
  std::vector<SavedSlab> list;
  for (const auto& [key, entry] : entries_) {
    for (const bool owned : {false, true}) {
      for (const State::Slab& slab : (owned ? entry.state.owned : entry.state.mine).slabs) {
        if (slab.spec.law == Law::kScratch || slab.values.empty()) continue;
        list.push_back({key.first, key.second, entry.chain, owned, entry.rank, entry.size,
                        slab.spec.name, slab.spec.law, slab.values});
      }
    }
  }
  for (const auto& [key, slabs] : loaded_) list.insert(list.end(), slabs.begin(), slabs.end());
  return list;
}

Status StateStore::load(std::vector<SavedSlab> slabs, int rank, int size) {
  for (const SavedSlab& slab : slabs) {
    if (slab.rank == rank && slab.size == size) continue;
    return Status(
        Code::kInvalidArgument,
        fmt::format("compression state of '{}' was saved by rank {} of {}, this is rank {} of "
                    "{}; load each rank's own file with as many ranks",
                    slab.tensor, slab.rank, slab.size, rank, size));
  }
  for (const SavedSlab& slab : slabs) loaded_.erase(Key(slab.set, slab.tensor));
  for (SavedSlab& slab : slabs) loaded_[Key(slab.set, slab.tensor)].push_back(std::move(slab));
  for (auto waiting = loaded_.begin(); waiting != loaded_.end();) {
    const auto entry = entries_.find(waiting->first);
    const Key key = (waiting++)->first;
    if (entry != entries_.end()) adopt(key, entry->second);
  }
  return {};
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

std::string to_bytes(const std::vector<SavedSlab>& slabs) {
  Writer out;
  out.raw(kMagic.data(), kMagic.size());
  out.number(kVersion);
  out.number(static_cast<uint64_t>(slabs.size()));
  for (const SavedSlab& slab : slabs) {
    out.number(slab.set);
    out.text(slab.tensor);
    out.text(slab.chain);
    out.number(static_cast<uint8_t>(slab.owned));
    out.number(static_cast<int32_t>(slab.rank));
    out.number(static_cast<int32_t>(slab.size));
    out.text(slab.slab);
    out.number(static_cast<uint8_t>(slab.law));
    out.number(static_cast<uint64_t>(slab.values.size()));
    out.raw(slab.values.data(), slab.values.size() * sizeof(float));
  }
  return out.take();
}

Result<std::vector<SavedSlab>> from_bytes(std::string_view bytes) {
  const Status corrupt(Code::kCorrupt,
                       "compression state: the bytes are damaged or of another version");
  if (!bytes.starts_with(kMagic)) return corrupt;
  Reader in(bytes.substr(kMagic.size()));
  if (in.number<uint32_t>() != kVersion) return corrupt;
  std::vector<SavedSlab> slabs;
  for (uint64_t left = in.number<uint64_t>(); left > 0 && in.good(); --left) {
    SavedSlab slab;
    slab.set = in.number<SetId>();
    slab.tensor = in.text();
    slab.chain = in.text();
    slab.owned = in.number<uint8_t>() != 0;
    slab.rank = in.number<int32_t>();
    slab.size = in.number<int32_t>();
    slab.slab = in.text();
    const auto law = in.number<uint8_t>();
    if (law > static_cast<uint8_t>(Law::kScratch)) return corrupt;
    slab.law = static_cast<Law>(law);
    slab.values = in.floats();
    slabs.push_back(std::move(slab));
  }
  if (!in.done()) return corrupt;
  return slabs;
}

}  // namespace hora
