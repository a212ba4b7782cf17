// `threshold`: magnitudes of at least `tau`, but at most the `most` largest share of a piece, so
// that a payload's size has a bound. What finds no room stays in the memory.
//
// Strom, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing", Interspeech 2015:
// each of them is sent as plus or minus tau (`quant:bits=1,recon=unit,scale=`tau).

#include <algorithm>
#include <cmath>

#include "compressors/largest.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

class Threshold final : public Selector {
 public:
  Threshold(float tau, double most) : tau_(tau), most_(most) {}
  size_t most(size_t count) const override {
    const auto wanted = static_cast<size_t>(std::ceil(most_ * static_cast<double>(count)));
    return std::clamp<size_t>(wanted, 1, count);
  }
  size_t choose(Workspace& workspace, Source& source, size_t count,
                uint32_t* chosen) const override {
    return choose_largest(workspace, source, count, most(count), bits_of(tau_), chosen);
  }
  bool varies() const override { return true; }
  bool contractive() const override { return false; }  // nothing may reach tau

 private:
  const float tau_;
  const double most_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const auto tau = static_cast<float>(keys.number("tau", 1e-30, 1e30));
  const double most = keys.number("most", 1e-9, 1);
  if (!keys.refused().empty()) return nullptr;
  return make_sparse(std::make_unique<Threshold>(tau, most), binding);
}

const RegisterStage threshold({.name = "threshold",
                               .order = Order::kSelect,
                               .what = "what is at least tau (Strom 2015)",
                               .keys = {{"tau", "0.01", "the smallest magnitude that is sent"},
                                        {"most", "0.05",
                                         "share of the elements that is sent at most"}},
                               .make = make});

}  // namespace
}  // namespace hora
