#include "tests/compressors/trial.h"

#include <algorithm>

#include "compressors/registry.h"

namespace hora {

std::vector<std::string> all_chains() {
  std::vector<std::string> chains;
  for (const Preset& preset : presets()) chains.push_back(preset.name);
  for (const Stage& stage : stages()) {
    const std::string name = stage.name;
    if (stage.code) chains.push_back("topk:ratio=3%+" + name);
    if (stage.make && stage.order != Order::kTransform) chains.push_back(name);
    if (stage.order == Order::kTransform) {
      chains.push_back(name + ":block=1k+quant:bits=4");
      chains.push_back("ef+" + name + ":block=256+quant:bits=3,round=nearest");
      chains.push_back(name + ":block=512+onebit");
    }
    if (stage.order == Order::kSelect) chains.push_back("noef+" + name);
    const std::string quantized = "ef+" + name + "+quant:bits=4,round=nearest";
    if (stage.order == Order::kSelect && ChainConfig::parse(quantized).ok())
      chains.push_back(quantized);
  }
  for (size_t i = 0; i < kernel_count(); ++i) {
    const BlockKernels& k = *kernel_at(i);
    if (k.bits > 8) continue;
    const std::string quant = "quant:bits=" + std::to_string(k.bits) + ",recon=" + k.family +
                              (k.random ? ",round=stochastic" : ",round=nearest");
    chains.push_back("noef+" + quant);
    chains.push_back("ef+" + quant + ",bucket=96");
  }
  for (const char* more : {"ef+fp16",
                           "ef+bf16",
                           "ef+topk:ratio=100%",
                           "drop:ratio=3%",
                           "onebit:bucket=2048",
                           "ef:decay=0.9+bf16",
                           "ef+randk",
                           "clip:norm=1+ef+quant:bits=8,round=nearest",
                           "clip:sigma=1+noef+bf16",
                           "quant:bits=5,bucket=tensor",
                           "ef:units=update+topk+fp16",
                           "mc:mask=false+quant:bits=1,recon=twomean",
                           "mc:nesterov=true+topk:ratio=5%+bitmap",
                           "topk:ratio=5%+quant:bits=1,recon=l1mean+golomb:k=4",
                           "threshold:tau=2,most=40%+elias",
                           "proportion:pi=1",
                           "quant:bits=2,bucket=96,scale=shared",
                           "ef+quant:bits=5,round=nearest,scale=shared",
                           "clip:norm=1+ef+powersgd",
                           "ef+basis:slice=96,rank=5,refresh=2",
                           "ef+mask:ratio=3%",
                           "columns:axis=0",
                           "ef:dtype=bf16+quant:bits=1,recon=twomean",
                           "ef:dtype=bf16+topk",
                           "ef:ref=global+mask:ratio=3%",
                           "lossless:room=60%",
                           "ef+lossless",
                           "ef+hadamard:block=256+lossless",
                           "topk:ratio=5%+lossless+golomb:k=4",
                           "threshold:tau=1,most=50%+rle+bitmap",
                           "noef+lossless:room=90%",
                           "topk:ratio=100%+elias",
                           "topk:ratio=60%+golomb:k=0"}) {
    chains.push_back(more);
  }
  std::vector<std::string> once;  // a stage's name may be a preset's whole chain
  for (std::string& chain : chains) {
    if (std::find(once.begin(), once.end(), chain) == once.end()) once.push_back(std::move(chain));
  }
  return once;
}

}  // namespace hora
