#pragma once

#include "compressors/blocks_jobs.h"
#include "compressors/codec.h"
#include "compressors/stage.h"

namespace hora {

/// A codec that gives every element a code by `kernels`, in scale blocks of `bucket` elements,
/// fused with the memory: one read of the gradient, one read and one write of the residual. `wire`
/// is what a linear payload's elements are, `parameter` what the kernels' fit() is told.
///
///   payload = f32 scales[blocks][kernels.scales], codes (blocks.h)
std::unique_ptr<Codec> make_dense(const BlockKernels& kernels, size_t bucket, DType wire,
                                  float parameter, const Binding& binding);

}  // namespace hora
