#pragma once

#include <cstddef>
#include <memory>

#include "compressors/stage.h"

namespace hora {

/// `quant:scale=shared`: uniform levels, 2^(bits-1) - 1 of them a side, of blocks whose scale is
/// the largest magnitude on any rank. Equal scales make codes integers that may be added, so the
/// exchange is two allreduces and what it brings is exact: nobody rounds a sum a second time.
///
///   first payload   i32 bits of each block's largest magnitude; their maximum is the scale
///   second payload  i64 words of fields: codes from 0 on, in fields as wide as the sum of all
///                   ranks' needs. A tile is 32 words: its element k is field k / 32 of word k % 32
///
/// TernGrad, Wen et al., NeurIPS 2017, whose "scaler sharing" this is, has one level a side.
std::unique_ptr<Codec> make_shared_scale(int bits, bool random, size_t bucket,
                                         const Binding& binding);

}  // namespace hora
