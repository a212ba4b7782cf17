#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/request.h"

namespace hora {

using ItemId = uint32_t;  ///< an agreed operation or a stable bucket; never reused within an epoch

/// Everything that must be equal on all members of a set before an operation may run.
///
/// Shapes: one for each tensor; several make an atomic group. Whoever fills a signature leaves the
/// first dimension of allgather and alltoall out, since row counts are data that the collective
/// exchanges by itself; count_of() is then elements per row, and only a hint of the size. A barrier
/// has no shape. add_set has one shape, which lists the members; remove_set names the set in
/// `root`.
struct Signature {
  Op op = Op::kAllreduce;
  ReduceOp reduce = ReduceOp::kSum;
  DType dtype = DType::kFloat32;
  DeviceKind device = DeviceKind::kHost;
  int32_t root = -1;  ///< broadcast: the source; remove_set: the set
  double prescale = 1, postscale = 1;
  uint16_t domain =
      0;              ///< 0: runs at once; else the optimizer whose gradients wait for their bucket
  std::string chain;  ///< canonical compression config; empty: values as they are
  uint32_t granule = 1;  ///< a split may fall on its multiples only, in elements; 0: never split
  std::vector<Shape> shapes;
  friend bool operator==(const Signature&, const Signature&) = default;
};

/// Elements of all tensors together. Sizes are within the wire's limits, so it cannot overflow.
inline uint64_t count_of(const Signature& signature) {
  uint64_t total = 0;
  for (const Shape& shape : signature.shapes) total += count_of(shape);
  return total;
}

}  // namespace hora
