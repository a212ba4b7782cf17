#include "runtime/submission.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/wire.h"

namespace hora {
namespace {

template <class... Args>
Status refuse(const Request& request, fmt::format_string<Args...> format, Args&&... args) {
  const std::string_view name = request.name.empty() ? name_of(request.op) : request.name;
  return Status(Code::kInvalidArgument,
                fmt::format("'{}': {}", name, fmt::format(format, std::forward<Args>(args)...)));
}

bool has_data(Op op) {
  return op <= Op::kBroadcast;
}
bool reduces(Op op) {
  return op == Op::kAllreduce || op == Op::kReduceScatter;
}

Status check_tensors(const Request& request) {
  if (request.inputs.empty()) return refuse(request, "no tensor was given");
  if (request.inputs.size() > Limits::kParts)
    return refuse(request, "a group has {} tensors; the limit is {}", request.inputs.size(),
                  Limits::kParts);
  if (!request.outputs.empty() && request.outputs.size() != request.inputs.size())
    return refuse(request, "{} inputs, but {} outputs", request.inputs.size(),
                  request.outputs.size());
  for (const Tensor& tensor : request.inputs) {
    if (tensor.dtype != request.inputs[0].dtype)
      return refuse(request, "a group's tensors have one dtype; here are {} and {}",
                    name_of(request.inputs[0].dtype), name_of(tensor.dtype));
    if (tensor.device.kind != DeviceKind::kHost)
      return refuse(request, "tensors on a device are not supported yet; copy it to the host");
    if (tensor.shape.size() > Limits::kDims)
      return refuse(request, "{} dimensions; the limit is {}", tensor.shape.size(), Limits::kDims);
    if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t dim) { return dim < 0; }))
      return refuse(request, "shape {} has a negative dimension", tensor.shape);
    if (tensor.data == nullptr && tensor.count() > 0 && !request.empty)
      return refuse(request, "a tensor of {} elements has no memory", tensor.count());
  }
  return {};
}

Status check_reduction(const Request& request) {
  if (!reduces(request.op)) return {};
  const DType dtype = request.inputs[0].dtype;
  if (request.reduce == ReduceOp::kAdasum) {
    if (request.op != Op::kAllreduce)
      return refuse(request, "adasum is for allreduce only; use sum or average");
    if (!is_float(dtype))
      return refuse(request, "adasum is not defined for {}; use sum, or cast it to float32",
                    name_of(dtype));
  }
  if (dtype == DType::kBool && request.reduce == ReduceOp::kAverage)
    return refuse(request,
                  "the average of bool is not defined; use sum (or), product (and), min or max");
  return {};
}

Status check_alltoall(const Request& request, int64_t rows) {
  if (request.inputs.size() > 1) return refuse(request, "alltoall takes one tensor");
  if (request.splits.empty()) return {};
  if (std::any_of(request.splits.begin(), request.splits.end(), [](int64_t n) { return n < 0; }))
    return refuse(request, "splits {} has a negative number", request.splits);
  const int64_t sum = std::accumulate(request.splits.begin(), request.splits.end(), int64_t{0});
  if (sum != rows)
    return refuse(request, "splits {} add up to {}, but the tensor has {} rows", request.splits,
                  sum, rows);
  return {};
}

Status check_members(const Request& request, const World& world) {
  if (request.members.empty()) return refuse(request, "a process set needs at least one rank");
  for (size_t i = 0; i < request.members.size(); ++i) {
    if (request.members[i] < 0 || request.members[i] >= world.size())
      return refuse(request, "rank {} is not in a world of {}", request.members[i], world.size());
    if (i > 0 && request.members[i - 1] >= request.members[i])
      return refuse(request, "ranks {} must be ascending and distinct", request.members);
  }
  return {};
}

Status check(const Request& request, const World& world) {
  if (request.name.size() > Limits::kNameBytes)
    return refuse(request, "the name has {} bytes; the limit is {}", request.name.size(),
                  Limits::kNameBytes);
  if (request.epoch != 0 && request.epoch != world.epoch)
    return refuse(request, "the request is for epoch {}, but this is epoch {}", request.epoch,
                  world.epoch);
  if (request.op == Op::kAddSet) return check_members(request, world);
  if (!has_data(request.op)) return {};
  HORA_TRY(check_tensors(request));
  HORA_TRY(check_reduction(request));
  const Shape& shape = request.inputs[0].shape;
  if (request.op == Op::kReduceScatter)
    for (const Tensor& tensor : request.inputs)
      if (tensor.shape.empty()) return refuse(request, "reducescatter of a scalar: it has no rows");
  if (request.op == Op::kBroadcast && (request.root < 0 || request.root >= world.size()))
    return refuse(request, "root rank {} is not in a world of {}", request.root, world.size());
  if (request.op == Op::kAlltoall) return check_alltoall(request, shape.empty() ? 1 : shape[0]);
  return {};
}

void fill_signature(const Request& request, Signature& signature) {
  signature.op = request.op;
  signature.reduce = reduces(request.op) ? request.reduce : ReduceOp::kSum;
  signature.dtype = has_data(request.op) ? request.inputs[0].dtype : DType::kUInt8;
  signature.device = DeviceKind::kHost;
  signature.root = request.op == Op::kBroadcast || request.op == Op::kRemoveSet ? request.root : -1;
  signature.prescale = reduces(request.op) ? request.prescale : 1;
  signature.postscale = reduces(request.op) ? request.postscale : 1;
  signature.domain = request.op == Op::kAllreduce ? request.domain : uint16_t{0};
  signature.chain.clear();
  signature.granule = 1;
  const bool ragged = request.op == Op::kAllgather || request.op == Op::kAlltoall;
  signature.shapes.resize(has_data(request.op) ? request.inputs.size() : 0);
  for (size_t i = 0; i < signature.shapes.size(); ++i) {
    const Shape& shape = request.inputs[i].shape;
    signature.shapes[i].assign(shape.begin() + (ragged && !shape.empty() ? 1 : 0), shape.end());
  }
  if (request.op == Op::kAddSet)
    signature.shapes.assign(1, Shape(request.members.begin(), request.members.end()));
}

/// Results whose size is known here get memory here; the others when the exchange has told it.
Status fill_outputs(Request& request, Outcome& outcome) {
  if (!has_data(request.op)) return {};
  if (request.outputs.empty()) request.outputs.resize(request.inputs.size());
  const bool known = request.op == Op::kAllreduce || request.op == Op::kBroadcast;
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const Tensor& input = request.inputs[i];
    Tensor& output = request.outputs[i];
    output.dtype = input.dtype;
    if (!known) continue;
    output.shape = input.shape;
    if (output.data != nullptr) continue;
    Buffer buffer;
    buffer.data.reset(std::malloc(std::max<size_t>(input.bytes(), 1)));
    if (!buffer.data)
      return Status(Code::kOutOfMemory,
                    fmt::format("no memory for {} bytes of result", input.bytes()));
    buffer.shape = input.shape;
    buffer.dtype = input.dtype;
    output.data = buffer.data.get();
    outcome.outputs.push_back(std::move(buffer));
  }
  return {};
}

}  // namespace

Status sign(const Request& request, const World& world, Compression& compression,
            Operation& operation) {
  HORA_TRY(check(request, world));
  operation.request = request;
  Submission& submission = operation.submission;
  submission.set = request.set;
  submission.priority = request.priority;
  fill_signature(request, submission.signature);
  HORA_TRY(compression.choose(request, submission.signature));
  return fill_outputs(operation.request, operation.outcome);
}

}  // namespace hora
