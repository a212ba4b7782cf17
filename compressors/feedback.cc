// Error feedback: what a step did not send is added to the next gradient. `noef` says that a biased
// chain shall do without.
//
// Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error
// Feedback Fixes SignSGD", ICML 2019; Vogels et al., "PowerSGD", NeurIPS 2019, whose algorithm has
// ref=global, and whose authors' library ref=local: over ranks both owe the same. The memory itself
// is a mode of the kernels (blocks.h), so that gradient and residual are read once.

#include "compressors/half_memory.h"
#include "compressors/stage.h"

namespace hora {
namespace {

void remember(Keys& keys, Memory& memory) {
  memory.feedback = true;
  memory.decay = static_cast<float>(keys.number("decay", 0, 1));
  memory.global = keys.choice("ref", {"local", "global"}) == "global";
  memory.update_units = keys.choice("units", {"grad", "update"}) == "update";
}

std::unique_ptr<Codec> around(Keys& keys, std::unique_ptr<Codec> inner) {
  if (keys.choice("dtype", {"f32", "bf16"}) == "f32") return inner;
  return keep_halves(std::move(inner));
}

const RegisterStage feedback(
    {.name = "ef",
     .order = Order::kMemory,
     .what = "error feedback: what was not sent is added to the next gradient (Seide et al. 2014)",
     .keys = {{"decay", "1", "0 to 1: what is owed is multiplied by it at each step"},
              {"dtype", "f32", "f32, or bf16: half the memory, rounded at random"},
              {"ref", "local",
               "local, or global: owed is what the ranks' mean lacks, not one's own part"},
              {"units", "grad", "grad, or update: rescaled when the learning rate changes"}},
     .remember = remember,
     .around = around});
const RegisterStage without({.name = "noef",
                             .order = Order::kMemory,
                             .what = "no memory, although the chain is biased",
                             .remember = [](Keys&, Memory& memory) { memory.declined = true; }});

}  // namespace
}  // namespace hora
