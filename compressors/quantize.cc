// `quant`: few bits for each element and a scale or two for each block of `bucket` elements.
// `recon` names the quantizer (a file in kernels/), `round` how it rounds.
//
// A scale block of `column` is a run of the last dimensions. `scale=shared` is shared_scale.h's.

#include <fmt/format.h>

#include "compressors/dense.h"
#include "compressors/registry.h"
#include "compressors/shared_scale.h"

namespace hora {
namespace {

constexpr size_t kShortest = 128, kStandard = 512;

size_t bucket_of(Keys& keys, const Extent& extent) {
  if (keys.text("bucket") == "tensor") return whole_granule(extent);
  if (keys.text("bucket") != "column") {
    const size_t bucket = keys.count("bucket", 32, size_t{1} << 20);
    if (bucket % kLanes != 0) keys.refuse("bucket must be a multiple of 32, 'column' or 'tensor'");
    return bucket;
  }
  // Shorter columns would send more scales than codes; ends inside a row of lanes would not align.
  const bool usable = extent.columns >= kShortest && extent.columns % kLanes == 0 &&
                      extent.columns <= size_t{1} << 20;
  return usable ? extent.columns : kStandard;
}

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const std::string_view round = keys.choice("round", {"auto", "nearest", "stochastic"});
  const std::string_view family = keys.text("recon");
  const auto bits = static_cast<int>(keys.count("bits", 1, 8));
  const size_t bucket = bucket_of(keys, binding.extent);
  const bool shared = keys.text("scale") == "shared";
  const float scale = shared ? 1.0f : static_cast<float>(keys.number("scale", 1e-30, 1e30));
  const BlockKernels* kernels = nullptr;
  if (round != "nearest") kernels = find_host_kernels(family, bits, true);
  if (!kernels && round != "stochastic") kernels = find_host_kernels(family, bits, false);
  if (shared && family != "levels") keys.refuse("scale=shared needs recon=levels");
  if (kernels && shared) return make_shared_scale(bits, kernels->random, bucket, binding);
  if (kernels) return make_dense(*kernels, bucket, DType::kUInt8, scale, binding);

  std::string known;
  for (size_t i = 0; i < kernel_count(); ++i) {
    const BlockKernels& k = *kernel_at(i);
    if (k.bits > 8 || known.find(fmt::format("{} bits={} ", k.family, k.bits)) != known.npos)
      continue;
    const bool both = find_host_kernels(k.family, k.bits, !k.random) != nullptr;
    known += fmt::format("{}{} bits={} {}", known.empty() ? "" : ", ", k.family, k.bits,
                         both       ? "either"
                         : k.random ? "stochastic"
                                    : "nearest");
  }
  keys.refuse(fmt::format("no quantizer recon={} with bits={} round={}; there are: {}", family,
                          bits, round, known));
  return nullptr;
}

const RegisterStage quant(
    {.name = "quant",
     .order = Order::kQuantize,
     .what = "few bits for each element, and a scale or two for each block",
     .keys = {{"bits", "4", "1 to 8, the sign included"},
              {"bucket", "512", "elements of a block (multiple of 32), column, or tensor"},
              {"recon", "levels", "the quantizer: see the table"},
              {"round", "auto", "nearest, stochastic, or auto: stochastic if there is such"},
              {"scale", "1",
               "what unit and lambda multiply by; shared: levels of one scale for all ranks"}},
     .make = make});

}  // namespace
}  // namespace hora
