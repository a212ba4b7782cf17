#pragma once

#include <cstddef>

#include "hora/tensor.h"

namespace hora {

/// Sixteen-bit gradients on their way through codecs, which compute in float32. `dtype` is float16,
/// bfloat16 or float32 (a copy). Rounds to nearest even; every value of sixteen bits survives a
/// round trip. Threads: any.
void widen(DType dtype, const std::byte* from, float* to, size_t count);
void narrow(DType dtype, const float* from, std::byte* to, size_t count);

/// No NaN and no Inf among them.
bool all_finite(const float* values, size_t count);

}  // namespace hora
