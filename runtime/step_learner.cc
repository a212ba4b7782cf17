#include "runtime/step_learner.h"

namespace hora {
namespace {
constexpr int kMostPatience = 1 << 20;
}

StepLearner::Verdict StepLearner::run(SetId set, uint16_t domain_id, ItemId id, bool loose) {
  Domain& domain = domains_[{set, domain_id}];
  uint64_t& seen = domain.seen[id];
  const Verdict verdict = seen == domain.step ? end_step(domain) : Verdict::kNothing;
  seen = domain.step;
  if (!domain.bucketed) domain.order.push_back(id);
  domain.loose |= loose && domain.bucketed;
  return verdict;
}

StepLearner::Verdict StepLearner::end_step(Domain& domain) {
  ++domain.step;
  const bool loose = std::exchange(domain.loose, false);
  if (!domain.bucketed) {
    domain.bucketed = true;
    domain.learned.swap(domain.order);
    domain.order.clear();
    return Verdict::kLearned;
  }
  if (!loose) {
    domain.bad_steps = 0;
  } else if (++domain.bad_steps >= domain.patience) {
    domain.bad_steps = 0, domain.bucketed = false;
    if (domain.patience < kMostPatience) domain.patience *= 2;
    return Verdict::kUnlearn;
  }
  return Verdict::kNothing;
}

const std::vector<ItemId>& StepLearner::order(SetId set, uint16_t domain) const {
  return domains_.at({set, domain}).learned;
}

void StepLearner::reset() {
  for (auto& [key, domain] : domains_) {
    domain.order.clear(), domain.seen.clear();
    domain.bucketed = domain.loose = false;
  }
}

void StepLearner::forget(SetId set) {
  std::erase_if(domains_, [&](const auto& pair) { return pair.first.first == set; });
}

}  // namespace hora
