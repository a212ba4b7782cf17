// Error feedback: what a step did not send is added to the next gradient. `noef` says that a biased
// chain shall do without.
//
// Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error
// Feedback Fixes SignSGD", ICML 2019. The memory itself is a mode of the kernels (blocks.h), so
// that gradient and residual are read once.

#include "compressors/stage.h"

namespace hora {
namespace {

void remember(Keys& keys, Memory& memory) {
  memory.feedback = true;
  memory.decay = static_cast<float>(keys.number("decay", 0, 1));
  memory.update_units = keys.choice("units", {"grad", "update"}) == "update";
}

const RegisterStage feedback(
    {.name = "ef",
     .order = Order::kMemory,
     .what = "error feedback: what was not sent is added to the next gradient (Seide et al. 2014)",
     .keys = {{"decay", "1", "0 to 1: what is owed is multiplied by it at each step"},
              {"units", "grad", "grad, or update: rescaled when the learning rate changes"}},
     .remember = remember,
     .around = around});
const RegisterStage without({.name = "noef",
                             .order = Order::kMemory,
                             .what = "no memory, although the chain is biased",
                             .remember = [](Keys&, Memory& memory) { memory.declined = true; }});

}  // namespace
}  // namespace hora
