#include "tests/compressors/trial.h"

#include "compressors/registry.h"

namespace hora {

std::vector<std::string> all_chains() {
  std::vector<std::string> chains;
  for (const Preset& preset : presets()) chains.push_back(preset.name);
  for (const Stage& stage : stages()) {
    if (stage.make) chains.push_back(stage.name);
  }
  for (size_t i = 0; i < kernel_count(); ++i) {
    const BlockKernels& k = *kernel_at(i);
    if (k.bits > 8) continue;
    const std::string quant = "quant:bits=" + std::to_string(k.bits) + ",recon=" + k.family +
                              (k.random ? ",round=stochastic" : ",round=nearest");
    chains.push_back("noef+" + quant);
    chains.push_back("ef+" + quant + ",bucket=96");
    chains.push_back("ef+topk:ratio=5%+" + quant);
  }
  for (const char* more : {"ef+fp16", "ef+bf16", "noef+topk", "ef+topk:ratio=100%", "drop:ratio=3%",
                           "onebit:bucket=2048", "ef:decay=0.9+bf16"}) {
    chains.push_back(more);
  }
  return chains;
}

}  // namespace hora
