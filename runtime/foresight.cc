#include "runtime/foresight.h"

#include <algorithm>
#include <utility>

#include "runtime/carried.h"

namespace hora {

void Foresight::announced(ItemId id, std::string_view values) {
  items_[id].announced = values;
}

void Foresight::heard(ItemId id, std::string_view values) {
  items_[id].heard = values;
}

bool Foresight::meet(ItemId id, size_t members, std::string& all) {
  const auto it = items_.find(id);
  if (it == items_.end() || it->second.announced.empty() || it->second.heard.empty()) return false;
  size_t count = 0;
  for_each_value(it->second.heard, [&](Rank, std::string_view) { ++count; });
  all = it->second.heard;
  if (count < members) all += it->second.announced;  // otherwise they have been to the parent's
  forget(id);
  return true;
}

void Foresight::forget(ItemId id) {
  const auto it = items_.find(id);
  if (it != items_.end()) it->second.announced.clear(), it->second.heard.clear();
}

void Foresight::clear() {
  items_.clear();
}

void Foresight::ended(const Submission& submission, uint64_t hash, Rank me) {
  if (spare_.empty()) spare_.emplace_back().declare.variants.resize(1);
  Ended& record = ended_.emplace_back(std::move(spare_.back()));
  spare_.pop_back();
  record.hash = hash, record.again = false;
  Declare& declare = record.declare;
  declare.set = submission.set, declare.name = submission.name;
  declare.priority = submission.priority;
  declare.variants[0].rank = me, declare.variants[0].count = 1;
  declare.variants[0].signature = submission.signature;
  declare.values.clear();
  append_values(declare.values, me, submission.values);
}

std::vector<Foresight::Ended>::const_iterator Foresight::find(uint64_t hash, SetId set,
                                                              std::string_view name) const {
  return std::ranges::find_if(ended_, [&](const Ended& each) {
    return each.hash == hash && each.declare.set == set && each.declare.name == name;
  });
}

bool Foresight::ahead(uint64_t hash, SetId set, std::string_view name) const {
  return find(hash, set, name) != ended_.end();
}

bool Foresight::blocks(uint64_t hash, SetId set, std::string_view name) const {
  const auto it = find(hash, set, name);
  return it != ended_.end() && it->again;
}

bool Foresight::caught_up(uint64_t hash, SetId set, std::string_view name) {
  const auto found = find(hash, set, name);
  if (found == ended_.end()) return false;
  const auto it = ended_.begin() + (found - ended_.cbegin());
  spare_.push_back(std::move(*it));
  ended_.erase(it);
  return true;
}

}  // namespace hora
