#include "compressors/automatic.h"

#include <iterator>

namespace hora {
namespace {

// Left out: fp16, whose sums overflow; what is biased and keeps nothing; what changes the optimizer
// (dgc, signum) or needs a number that fits the model (strom); powersgd, whose payload depends on a
// tensor's shape.
constexpr AutomaticChain kChains[] = {
    {"none", "none", 0},        {"lossless", "lossless:room=0.88", 0},
    {"bf16", "bf16", 0.0025},   {"int8", "ef+quant:bits=8,round=nearest", 0.01},
    {"fp8", "fp8", 0.03},       {"int4", "ef+quant:bits=4,round=nearest", 0.15},
    {"onebit", "onebit", 0.65}, {"topk", "ef+topk:ratio=1%", 0.97},
};

}  // namespace

std::span<const AutomaticChain> automatic_chains() {
  return kChains;
}

std::optional<size_t> automatic_chain_named(std::string_view name) {
  for (size_t i = 0; i < std::size(kChains); ++i)
    if (kChains[i].name == name) return i;
  return {};
}

}  // namespace hora
