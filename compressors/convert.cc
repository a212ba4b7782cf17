#include "compressors/convert.h"

#include <cstring>

#include "compressors/registry.h"
#include "hora/status.h"

namespace hora {
namespace {

const BlockKernels& kernels_of(DType dtype) {
  const BlockKernels* kernels =
      find_host_kernels(dtype == DType::kFloat16 ? "fp16" : "bf16", 16, false);
  HORA_CHECK(kernels != nullptr && (dtype == DType::kFloat16 || dtype == DType::kBFloat16),
             std::string(name_of(dtype)));
  return *kernels;
}

void encode(const BlockKernels& kernels, const float* from, uint8_t* to, size_t count) {
  kernels.encode({.input = from,
                  .residual = nullptr,
                  .scales = nullptr,
                  .codes = to,
                  .first = 0,
                  .count = count,
                  .bucket = 512,
                  .input_scale = 1,
                  .residual_scale = 0,
                  .key = {},
                  .mode = Mode::kPlain},
                 nullptr);
}

}  // namespace

void widen(DType dtype, const std::byte* from, float* to, size_t count) {
  if (count == 0) return;
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  kernels_of(dtype).decode({.scales = nullptr,
                            .codes = reinterpret_cast<const uint8_t*>(from),
                            .sum = to,
                            .count = count,
                            .bucket = 512,
                            .scale = 1,
                            .overwrite = true},
                           nullptr);
}

void narrow(DType dtype, const float* from, std::byte* to, size_t count) {
  if (count == 0) return;
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  // A kernel writes whole rows of lanes.
  const BlockKernels& kernels = kernels_of(dtype);
  const size_t whole = count / kLanes * kLanes;
  encode(kernels, from, reinterpret_cast<uint8_t*>(to), whole);
  if (whole == count) return;
  uint16_t last[kLanes];
  encode(kernels, from + whole, reinterpret_cast<uint8_t*>(last), count - whole);
  std::memcpy(to + 2 * whole, last, 2 * (count - whole));
}

bool all_finite(const float* values, size_t count) {
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) bad |= magnitude_bits(values[i]) >= 0x7F800000u;
  return bad == 0;
}

}  // namespace hora
