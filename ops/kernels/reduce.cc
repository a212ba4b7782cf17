#include "ops/kernels/reduce.h"

#include <algorithm>
#include <atomic>
#include <iterator>

#include "ops/kernels/reduce_job.h"

namespace hora {
namespace {

struct Isa {
  std::string_view name;
  void (*reduce)(const ReduceJob& job);
  bool (*here)();
};

// Best first.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", avx512::reduce,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("f16c");
     }},
    {"avx2", avx2::reduce,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"); }},
#endif
    {"base", base::reduce, [] { return true; }},
};

const Isa* find_isa(std::string_view name) {
  for (const Isa& isa : kIsas) {
    if ((name == "auto" || name == isa.name) && isa.here()) return &isa;
  }
  return nullptr;
}

/// Null until the first use. The one choice that holds for the process, not for an engine: the
/// machine under it is the same for all.
constinit std::atomic<const Isa*> g_isa = nullptr;

const Isa& isa_in_use() {
  const Isa* isa = g_isa.load(std::memory_order_acquire);
  if (!isa) {
    isa = find_isa("auto");
    g_isa.store(isa, std::memory_order_release);
  }
  return *isa;
}

/// An output that is also an input is in the cache already: only the others gain by going around.
uint64_t outputs_to_stream(std::span<const std::byte* const> inputs,
                           std::span<std::byte* const> outputs) {
  uint64_t streamed = 0;
  for (size_t k = 0; k < std::min<size_t>(outputs.size(), 64); ++k) {
    if (std::find(inputs.begin(), inputs.end(), outputs[k]) == inputs.end()) {
      streamed |= uint64_t{1} << k;
    }
  }
  return streamed;
}

}  // namespace

void reduce(const Reduction& reduction, std::span<const std::byte* const> inputs,
            std::span<std::byte* const> outputs, size_t count, bool streaming) {
  HORA_CHECK(reduction.op != ReduceOp::kAdasum, "adasum is no element-wise reduction");
  if (count == 0 || inputs.empty()) return;
  const bool average = reduction.op == ReduceOp::kAverage;
  HORA_CHECK(!average || reduction.dtype != DType::kBool, "there is no average of bools");

  const auto members = static_cast<int64_t>(inputs.size());
  ReduceJob job{};
  job.inputs = inputs.data();
  job.members = inputs.size();
  job.outputs = outputs.data();
  job.places = outputs.size();
  job.count = count;
  job.dtype = reduction.dtype;
  job.op = average ? ReduceOp::kSum : reduction.op;
  job.before = reduction.prescale;
  job.after = reduction.postscale;
  job.divisor = 1;
  if (average && is_float(reduction.dtype)) job.after /= static_cast<double>(members);
  if (average && !is_float(reduction.dtype)) job.divisor = members;
  job.scaled = job.before != 1 || job.after != 1 || job.divisor != 1;
  if (streaming) job.streamed = outputs_to_stream(inputs, outputs);
  isa_in_use().reduce(job);
}

bool choose_isa(std::string_view name) {
  const Isa* isa = find_isa(name);
  if (isa) g_isa.store(isa, std::memory_order_release);
  return isa != nullptr;
}

std::string_view chosen_isa() {
  return isa_in_use().name;
}

}  // namespace hora
