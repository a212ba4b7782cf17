#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "compressors/chain.h"
#include "hora/tensor.h"
#include "ops/cost_model.h"

namespace hora {

/// What a codec takes of one core, in seconds for each element of the gradient.
struct CodecSpeed {
  double encode = 0;  ///< gradient and memory to payload; all rounds of a linear codec
  double decode = 0;  ///< a payload added to a sum; a linear codec's finish()
  double settle = 0;  ///< the rest of a result: zeros before, a look for NaN after
};

/// Reads a clock, in nanoseconds.
using Now = std::function<int64_t()>;

/// Measures a codec on its whole tensor, of numbers like a gradient's: the least of several times,
/// for about `budget` nanoseconds. All bytes come from the caches if the
/// tensor fits. Errors: kCorrupt, kInvalidArgument: the codec failed.
Result<CodecSpeed> measure_speed(const Codec& codec, const Now& now, int64_t budget);

/// Bytes that a rank sends to others for `count` elements of `width` bytes, as aggregate() does; on
/// average over ranks. Where sizes vary, the most, and exchange_cost() reckons with that, too.
/// `codec`: null for kDense. `degrees`: of a merge, as the chain has them.
double sent_bytes(Aggregation how, const Codec* codec, size_t count, size_t width, int ranks,
                  std::span<const int> degrees = {});

/// Seconds of one exchange, taken apart.
struct ExchangeCost {
  double transfer = 0;  ///< on links, or through shared memory
  double codec = 0;     ///< of the rank's core
  double seconds() const { return transfer + codec; }
};

/// The one model of a compressed exchange: what `hora plan`, `hora compress explain`, `hora bench
/// compressor` and `auto` go by. A pure function: what all ranks know alike they predict alike.
///
/// A tensor of `count` elements of `dtype` travels by itself over all ranks of the topology, with
/// `codec` (null: as it is) and `how` its payloads are added up. Nothing overlaps: a bucket is
/// encoded, sent, decoded. `speed` is that of the slowest rank while all are at work.
ExchangeCost exchange_cost(const Topology& topology, Aggregation how, const Codec* codec,
                           const CodecSpeed& speed, size_t count, DType dtype = DType::kFloat32,
                           std::span<const int> degrees = {});

}  // namespace hora
