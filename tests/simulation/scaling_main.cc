// hora_scaling RANKS [--per-host N] [--arity N] [--tensors N] [--star] [--model]: what the control
// plane costs a job of so many ranks, as one line of JSON. --model leaves the negotiators out.
#include <chrono>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <sys/resource.h>

#include "tests/simulation/scaling.h"

namespace {

std::string json(const hora::StepCost& cost) {
  return fmt::format(
      R"({{"buckets": {}, "frames_in": {}, "frames_out": {}, "frames_mean": {:.3f}, )"
      R"("bytes_most": {}, "bytes_mean": {:.1f}, "agreed_us": {:.1f}}})",
      cost.buckets, cost.frames_in, cost.frames_out, cost.frames_mean, cost.bytes_most,
      cost.bytes_mean, static_cast<double>(cost.agreed) * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr,
               "usage: hora_scaling RANKS [--per-host N] [--arity N] [--tensors N] [--star] "
               "[--model]\n");
    return 2;
  }
  hora::ScalingCase scaling;
  bool model = false;
  scaling.ranks = std::atoi(argv[1]);
  for (int i = 2; i < argc; ++i) {
    const auto is = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    if (is("--star"))
      scaling.star = true;
    else if (is("--model"))
      model = true;
    else if (i + 1 == argc)
      return 2;
    else if (is("--per-host"))
      scaling.per_host = std::atoi(argv[++i]);
    else if (is("--arity"))
      scaling.arity = std::atoi(argv[++i]);
    else if (is("--tensors"))
      scaling.tensors = std::atoi(argv[++i]);
    else
      return 2;
  }
  const auto begin = std::chrono::steady_clock::now();
  std::string costs;
  bool agreed = true;
  uint64_t engine_steps = 0;
  if (model) {
    const auto buckets = scaling.tensor_bytes * static_cast<uint64_t>(scaling.tensors) >> 20;
    const int frames = static_cast<int>(buckets) + 1;
    costs =
        fmt::format(R"("steady": {}, "one_by_one": {})", json(hora::model_scaling(scaling, {}, 1)),
                    json(hora::model_scaling(scaling, {}, frames)));
  } else {
    const hora::ScalingResult result = hora::simulate_scaling(scaling, {});
    agreed = result.agreed, engine_steps = result.engine_steps;
    costs = fmt::format(R"("first": {}, "steady": {}, "one_by_one": {})", json(result.first),
                        json(result.steady), json(result.one_by_one));
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  fmt::print(R"({{"ranks": {}, "per_host": {}, "arity": {}, "star": {}, "tensors": {}, )"
             R"("simulated": {}, {}, "engine_steps": {}, "wall_s": {:.2f}, "memory_mib": {}}})"
             "\n",
             scaling.ranks, scaling.per_host, scaling.arity, scaling.star, scaling.tensors, !model,
             costs, engine_steps, wall.count(), usage.ru_maxrss / 1024);
  if (!agreed) fmt::print(stderr, "ranks were told different plans\n");
  return agreed ? 0 : 1;
}
