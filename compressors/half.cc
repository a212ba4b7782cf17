// `fp16`, `bf16` and `truncate`: sixteen bits for each element. Linear without a memory (the sum
// travels in sixteen bits too); with one they are recoded, because a rounded sum would lose what no
// memory sees.

#include "compressors/dense.h"
#include "compressors/registry.h"

namespace hora {
namespace {

// Halves have no scales; the block is only how far a lane walks.
constexpr size_t kBucket = 512;

template <DType kWire, const char* kFamily>
std::unique_ptr<Codec> make(Keys&, Binding& binding) {
  const BlockKernels* kernels = find_host_kernels(kFamily, 16, false);
  HORA_CHECK(kernels != nullptr, "the sixteen-bit kernels are not linked");
  return make_dense(*kernels, kBucket, kWire, 1.0f, binding);
}

constexpr char kFp16[] = "fp16", kBf16[] = "bf16", kTruncate[] = "truncate";
const RegisterStage fp16({.name = kFp16,
                          .order = Order::kQuantize,
                          .what = "IEEE half, to the nearest",
                          .make = make<DType::kFloat16, kFp16>});
const RegisterStage bf16({.name = kBf16,
                          .order = Order::kQuantize,
                          .what = "bfloat16, to the nearest",
                          .make = make<DType::kBFloat16, kBf16>});
const RegisterStage truncate({.name = kTruncate,
                              .order = Order::kQuantize,
                              .what = "the upper half of a float (Pipe-SGD, Li et al. 2018)",
                              .make = make<DType::kBFloat16, kTruncate>});

}  // namespace
}  // namespace hora
