// `fp16` and `bf16`: sixteen bits for each element. Linear without a memory (the sum travels in
// sixteen bits too); with one they are recoded, because a rounded sum would lose what no memory
// sees.

#include "compressors/dense.h"
#include "compressors/registry.h"

namespace hora {
namespace {

// Halves have no scales; the block is only how far a lane walks.
constexpr size_t kBucket = 512;

template <DType kWire>
std::unique_ptr<Codec> make(Keys&, Binding&& binding) {
  const BlockKernels* kernels =
      find_host_kernels(kWire == DType::kFloat16 ? "fp16" : "bf16", 16, false);
  HORA_CHECK(kernels != nullptr, "the sixteen-bit kernels are not linked");
  return make_dense(*kernels, kBucket, kWire, binding);
}

const RegisterStage fp16({"fp16", 4, {}, make<DType::kFloat16>});
const RegisterStage bf16({"bf16", 4, {}, make<DType::kBFloat16>});

}  // namespace
}  // namespace hora
