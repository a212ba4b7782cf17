#include "hora/request.h"
#include "hora/tensor.h"

namespace hora {

std::string_view name_of(DType dtype) {
  static constexpr std::string_view kNames[kDTypes] = {"uint8",   "int8",    "int16",    "int32",
                                                       "int64",   "float16", "bfloat16", "float32",
                                                       "float64", "bool"};
  const auto index = static_cast<size_t>(dtype);
  return index < kDTypes ? kNames[index] : "unknown dtype";
}

std::string_view name_of(Op op) {
  switch (op) {
    case Op::kAllreduce:
      return "allreduce";
    case Op::kReduceScatter:
      return "reducescatter";
    case Op::kAllgather:
      return "allgather";
    case Op::kAlltoall:
      return "alltoall";
    case Op::kBroadcast:
      return "broadcast";
    case Op::kBarrier:
      return "barrier";
    case Op::kAddSet:
      return "add_process_set";
    case Op::kRemoveSet:
      return "remove_process_set";
    case Op::kJoin:
      return "join";
  }
  return "unknown operation";
}

std::string_view name_of(ReduceOp reduce) {
  switch (reduce) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kAverage:
      return "average";
    case ReduceOp::kMin:
      return "min";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kProduct:
      return "product";
    case ReduceOp::kAdasum:
      return "adasum";
  }
  return "unknown reduction";
}

}  // namespace hora
