#pragma once

#include <cstddef>
#include <cstdint>

#include "hora/request.h"

namespace hora {

/// One call of reduce(), ready to run: what every instruction set's loops get. Plain data, because
/// their files may use nothing that the linker could share with code for another machine.
struct ReduceJob {
  const std::byte* const* inputs;
  size_t members;
  std::byte* const* outputs;
  size_t places;  ///< outputs
  size_t count;
  DType dtype;
  ReduceOp op;           ///< sum, min, max or product; an average is a sum with a factor
  bool scaled;           ///< the three below differ from 1
  double before, after;  ///< factors; for floats `after` has the average's 1/n in it
  int64_t divisor;       ///< integers: the average's n, else 1
  uint64_t streamed;     ///< bit k: outputs[k] bypasses the cache
};

namespace base {
void reduce(const ReduceJob& job);
}
namespace avx2 {
void reduce(const ReduceJob& job);
}
namespace avx512 {
void reduce(const ReduceJob& job);
}

}  // namespace hora
