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

const RegisterStage feedback({"ef", 1, {{"decay", "1"}, {"units", "grad"}}, nullptr, remember});
const RegisterStage without({"noef", 1, {}, nullptr, [](Keys&, Memory& memory) {
                               memory.declined = true;
                             }});

}  // namespace
}  // namespace hora
