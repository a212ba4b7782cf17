// `topk`: the `ratio` largest magnitudes of a piece, ties to the lower index. Exact: a sample only
// says where to look (candidates.h), so DGC's loop over thresholds is not needed, nor a seed.
//
// Warm-up: for `warmup` exchanges more is sent, four times less in each quarter of them: 25 %,
// 6.25 %, 1.56 %, 0.39 % (Lin et al. 2018, where a quarter is an epoch).

#include <algorithm>
#include <cmath>

#include "compressors/largest.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

class TopK final : public Selector {
 public:
  explicit TopK(double ratio) : ratio_(ratio) {}
  size_t most(size_t count) const override {
    const auto wanted = static_cast<size_t>(std::ceil(ratio_ * static_cast<double>(count)));
    return std::clamp<size_t>(wanted, 1, count);
  }
  size_t choose(Workspace& workspace, Source& source, size_t count,
                uint32_t* chosen) const override {
    return choose_largest(workspace, source, count, most(count), 0, chosen);
  }
  bool contractive() const override { return true; }

 private:
  const double ratio_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  double ratio = keys.number("ratio", 1e-9, 1);
  const size_t warmup = keys.count("warmup", 0, size_t{1} << 40);
  if (!keys.refused().empty()) return nullptr;
  constexpr size_t kPhases = 4;
  if (binding.step < warmup) {
    const size_t phase = binding.step * kPhases / warmup;
    ratio = std::max(ratio, std::pow(0.25, static_cast<double>(phase + 1)));
    // The first step of the next phase: the least s with s kPhases / warmup > phase.
    binding.until = ((phase + 1) * warmup + kPhases - 1) / kPhases;
  }
  return make_sparse(std::make_unique<TopK>(ratio), binding);
}

const RegisterStage topk(
    {.name = "topk",
     .order = Order::kSelect,
     .what = "the largest magnitudes, exactly (Aji & Heafield 2017; Lin et al. 2018)",
     .keys = {{"ratio", "0.01", "share of the elements that is sent"},
              {"warmup", "0", "exchanges in which it falls from 25 %, by 4 in each quarter"}},
     .make = make});

}  // namespace
}  // namespace hora
