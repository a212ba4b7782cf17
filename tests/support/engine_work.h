#pragma once

#include <string>
#include <vector>

#include "hora/engine.h"
#include "tests/support/run_ranks.h"

namespace hora::support {

/// The sum of `values` over all ranks, in place. The request borrows `values`.
inline Request allreduce(const std::string& name, std::vector<float>& values) {
  Request request;
  request.name = name;
  request.reduce = ReduceOp::kSum;
  request.inputs = {{values.data(), {static_cast<int64_t>(values.size())}, DType::kFloat32, {}}};
  request.outputs = request.inputs;
  return request;
}

/// Every rank gives its number plus one, and all get the sum; what went wrong, or nothing.
inline std::string reduce_ok(Engine& engine, const std::string& name, size_t count) {
  std::vector<float> values(count, static_cast<float>(engine.world().rank + 1));
  HORA_WANT_OK(engine.run(allreduce(name, values)));
  const int size = engine.world().size();
  for (const float value : values)
    HORA_WANT(value == static_cast<float>(size * (size + 1) / 2), std::to_string(value));
  return "";
}

}  // namespace hora::support
