// What nccl-tests measure, over Hora's backends, bare or through the engine; same flags and
// columns.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "benchmarks/bare.h"
#include "benchmarks/job.h"
#include "benchmarks/report.h"
#include "hora/engine.h"

namespace hora::benchmarks {
namespace {

struct Options {
  int ranks = 2;
  std::string least = "4", most = "64M", dtype = "float", reduce = "sum", collective = "allreduce";
  std::string layer = "backend", backend = "shm", json;
  double factor = 4;
  int iterations = 0, warmup = 5;
  bool check = true, arena = false;
};

struct Case {
  Op op;
  Reduction reduction;
  size_t bytes;          ///< the column "size"
  size_t input, output;  ///< bytes of this rank's memory
};

DType dtype_of(const std::string& name) {
  static constexpr std::pair<const char*, DType> kNccl[] = {
      {"float", DType::kFloat32}, {"double", DType::kFloat64}, {"half", DType::kFloat16}};
  for (const auto& [theirs, ours] : kNccl)
    if (name == theirs) return ours;
  for (size_t i = 0; i < kDTypes; ++i)
    if (name == name_of(static_cast<DType>(i))) return static_cast<DType>(i);
  give_up(Status(Code::kInvalidArgument, "-d " + name + " is not a type"));
}

ReduceOp reduce_of(std::string name) {
  if (name == "prod") name = "product";
  if (name == "avg") name = "average";
  for (const ReduceOp op :
       {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct})
    if (name == name_of(op)) return op;
  give_up(Status(Code::kInvalidArgument, "-o " + name + " is not a reduction"));
}

Op collective_of(std::string name) {
  std::erase(name, '_');
  for (const Op op : {Op::kAllreduce, Op::kReduceScatter, Op::kAllgather, Op::kAlltoall,
                      Op::kBroadcast, Op::kBarrier})
    if (name == name_of(op)) return op;
  give_up(Status(Code::kInvalidArgument, "-t " + name + " is not a collective"));
}

/// nccl-tests' doc/PERFORMANCE.md: what every link carries, as a share of the size.
double bus_factor(Op op, int size) {
  const double n = size;
  switch (op) {
    case Op::kAllreduce:
      return 2 * (n - 1) / n;
    case Op::kBroadcast:
      return 1;
    case Op::kBarrier:
      return 0;
    default:
      return (n - 1) / n;
  }
}

Case make_case(const Options& options, size_t bytes, int size) {
  Case one{collective_of(options.collective),
           {dtype_of(options.dtype), reduce_of(options.reduce)},
           bytes,
           0,
           0};
  const size_t width = bytes_of(one.reduction.dtype), members = static_cast<size_t>(size);
  const bool split =
      one.op == Op::kReduceScatter || one.op == Op::kAllgather || one.op == Op::kAlltoall;
  const size_t step = split ? width * members : width;
  one.bytes = std::max(step, bytes / step * step);
  one.input = one.op == Op::kAllgather ? one.bytes / members : one.bytes;
  one.output = one.op == Op::kReduceScatter ? one.bytes / members : one.bytes;
  return one;
}

/// Either layer, with the memory that its operations use.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual Status run(const Case& one, std::byte* input, std::byte* output) = 0;
  virtual std::span<std::byte> arena(size_t bytes) = 0;
};

class BareRunner : public Runner {
 public:
  BareRunner(Rankfile& self, const std::string& backend, std::shared_ptr<void> hub)
      : bare_(self, backend, std::move(hub)), size_(static_cast<size_t>(self.size())) {}

  std::span<std::byte> arena(size_t bytes) override { return need(bare_.backend().arena(bytes)); }

  Status run(const Case& one, std::byte* input, std::byte* output) override {
    Communicator& world = bare_.world();
    Lane& lane = bare_.lane();
    const uint64_t tag = bare_.next_tag();
    const size_t width = bytes_of(one.reduction.dtype);
    switch (one.op) {
      case Op::kAllreduce:
        segment_ = {input, one.input / width};
        return bare_.run(world.allreduce(lane, tag, {&segment_, 1}, one.reduction));
      case Op::kBroadcast:
        segment_ = {input, one.input};
        return bare_.run(world.broadcast(lane, tag, {&segment_, 1}, 0));
      case Op::kReduceScatter:
        parts_.assign(size_, one.output / width);
        return bare_.run(world.reduce_scatter(lane, tag, input, output, parts_, one.reduction));
      case Op::kAllgather:
        parts_.assign(size_, one.input);
        return bare_.run(world.allgather(lane, tag, input, output, parts_));
      case Op::kAlltoall:
        parts_.assign(size_, one.input / size_);
        return bare_.run(world.alltoall(lane, tag, input, parts_, output, parts_));
      default:
        return bare_.run(world.barrier(lane, tag));
    }
  }

 private:
  Bare bare_;
  const size_t size_;
  Segment segment_;
  std::vector<size_t> parts_;
};

class EngineRunner : public Runner {
 public:
  explicit EngineRunner(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  std::span<std::byte> arena(size_t bytes) override { return need(engine_->allocate(bytes)); }

  Status run(const Case& one, std::byte* input, std::byte* output) override {
    if (request_.name.empty() || one.bytes != bytes_) prepare(one, input, output);
    return engine_->run(request_);
  }

 private:
  /// One name for each size, as a training loop has one for each tensor.
  void prepare(const Case& one, std::byte* input, std::byte* output) {
    bytes_ = one.bytes;
    request_ = Request();
    request_.name = "benchmark." + std::to_string(one.bytes);
    request_.op = one.op;
    request_.reduce = one.reduction.op;
    request_.chain = "none";
    if (one.op == Op::kBarrier) return;
    const DType dtype = one.reduction.dtype;
    const auto shape = [&](size_t bytes) {
      return Shape{static_cast<int64_t>(bytes / bytes_of(dtype))};
    };
    const bool in_place = one.op == Op::kAllreduce || one.op == Op::kBroadcast;
    request_.inputs = {{input, shape(one.input), dtype, {}}};
    request_.outputs = {{in_place ? input : output, shape(one.output), dtype, {}}};
  }

  std::unique_ptr<Engine> engine_;
  Request request_;
  size_t bytes_ = 0;
};

// --- checking: small integers, whose sums are exact
// ------------------------------------------------

template <class Visit>
bool with_type(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kUInt8:
      visit(uint8_t{});
      return true;
    case DType::kInt32:
      visit(int32_t{});
      return true;
    case DType::kInt64:
      visit(int64_t{});
      return true;
    case DType::kFloat32:
      visit(float{});
      return true;
    case DType::kFloat64:
      visit(double{});
      return true;
    default:
      return false;
  }
}

double value_of(Rank rank, size_t index) {
  return static_cast<double>(rank + 1) + double(index % 3);
}

double wanted(const Case& one, Rank self, int size, size_t index) {
  const size_t members = static_cast<size_t>(size), width = bytes_of(one.reduction.dtype);
  if (one.op == Op::kBroadcast) return value_of(0, index);
  if (one.op == Op::kAllgather) {
    const size_t part = one.input / width;
    return value_of(static_cast<Rank>(index / part), index % part);
  }
  if (one.op == Op::kAlltoall) {
    const size_t part = one.input / width / members;
    return value_of(static_cast<Rank>(index / part),
                    index % part + static_cast<size_t>(self) * part);
  }
  const size_t at =
      one.op == Op::kReduceScatter ? index + static_cast<size_t>(self) * one.output / width : index;
  double result = value_of(0, at);
  for (Rank rank = 1; rank < size; ++rank) {
    const double value = value_of(rank, at);
    switch (one.reduction.op) {
      case ReduceOp::kMin:
        result = std::min(result, value);
        break;
      case ReduceOp::kMax:
        result = std::max(result, value);
        break;
      case ReduceOp::kProduct:
        result *= value;
        break;
      default:
        result += value;
    }
  }
  return one.reduction.op == ReduceOp::kAverage ? result / size : result;
}

/// How many elements are wrong, or -1 where that was not looked at.
long check(Runner& runner, const Case& one, Rankfile& self, std::byte* input, std::byte* output) {
  long wrong = -1;
  if (one.op == Op::kBarrier) return wrong;
  const bool in_place = one.op == Op::kAllreduce || one.op == Op::kBroadcast;
  with_type(one.reduction.dtype, [&](auto type) {
    using T = decltype(type);
    T* const values = reinterpret_cast<T*>(input);
    for (size_t i = 0; i < one.input / sizeof(T); ++i) values[i] = T(value_of(self.rank(), i));
    need(runner.run(one, input, output));
    const T* const results = reinterpret_cast<const T*>(in_place ? input : output);
    wrong = 0;
    for (size_t i = 0; i < one.output / sizeof(T); ++i)
      wrong += results[i] != T(wanted(one, self.rank(), self.size(), i));
  });
  return wrong;
}

// --- measuring
// -------------------------------------------------------------------------------------

int iterations_for(const Options& options, size_t bytes) {
  if (options.iterations > 0) return options.iterations;
  return static_cast<int>(
      std::clamp<size_t>((size_t{256} << 20) / std::max<size_t>(bytes, 1), 20, 2000));
}

/// Seconds of each iteration, back to back.
std::vector<double> measure(Runner& runner, const Options& options, const Case& one,
                            std::byte* input, std::byte* output) {
  std::memset(input, 0, one.input);  // so that sums stay what they are
  for (int i = 0; i < options.warmup; ++i) need(runner.run(one, input, output));
  std::vector<double> samples(static_cast<size_t>(iterations_for(options, one.bytes)));
  double begin = seconds_now();
  for (double& sample : samples) {
    need(runner.run(one, input, output));
    const double end = seconds_now();
    sample = end - begin;
    begin = end;
  }
  return samples;
}

double slowest(Rankfile& self, double seconds) {
  double worst = 0;
  for (const std::string& text : self.gather(std::to_string(seconds * 1e6)))
    worst = std::max(worst, std::stod(text));
  return worst;
}

/// The rank's memory: private, or where peers reach it.
struct Memory {
  Memory(Runner& runner, bool arena, size_t bytes) {
    if (arena) {
      input = runner.arena(bytes).data();
      output = runner.arena(bytes).data();
    }
    if (!input) {
      owned = {std::make_unique<std::byte[]>(bytes + 64),
               std::make_unique<std::byte[]>(bytes + 64)};
      input = aligned(owned[0].get());
      output = aligned(owned[1].get());
    }
    std::memset(input, 0, bytes);
    std::memset(output, 0, bytes);
  }
  static std::byte* aligned(std::byte* memory) {
    return memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64) % 64;
  }
  std::array<std::unique_ptr<std::byte[]>, 2> owned;
  std::byte *input = nullptr, *output = nullptr;
};

nlohmann::json run_case(Runner& runner, const Options& options, size_t bytes, Rankfile& self,
                        Memory& memory, double copy) {
  const Case one = make_case(options, bytes, self.size());
  const long wrong = options.check ? check(runner, one, self, memory.input, memory.output) : -1;
  self.meet();
  const auto samples = measure(runner, options, one, memory.input, memory.output);
  const double median = slowest(self, quantile(samples, 0.5));
  const double p10 = slowest(self, quantile(samples, 0.1));
  const double algorithm = static_cast<double>(one.bytes) / 1e3 / median;
  return {{"size", one.bytes},
          {"count", one.bytes / bytes_of(one.reduction.dtype)},
          {"type", name_of(one.reduction.dtype)},
          {"redop", name_of(one.reduction.op)},
          {"time_us", median},
          {"p10_us", p10},
          {"algbw", algorithm},
          {"busbw", algorithm * bus_factor(one.op, self.size())},
          {"copy_share", algorithm / copy},
          {"wrong", wrong}};
}

void print_row(const nlohmann::json& row) {
  const long wrong = row["wrong"];
  std::printf("%12zu %12zu %9s %8s %11.2f %11.2f %9.3f %9.3f %9.2f %6s\n",
              row["size"].get<size_t>(), row["count"].get<size_t>(),
              row["type"].get<std::string>().c_str(), row["redop"].get<std::string>().c_str(),
              row["time_us"].get<double>(), row["p10_us"].get<double>(), row["algbw"].get<double>(),
              row["busbw"].get<double>(), row["copy_share"].get<double>(),
              wrong < 0 ? "-" : std::to_string(wrong).c_str());
  std::fflush(stdout);
}

std::unique_ptr<Runner> make_runner(const Options& options, Rankfile& self,
                                    const std::shared_ptr<void>& hub,
                                    std::vector<std::unique_ptr<Engine>>& engines) {
  if (options.layer == "backend") return std::make_unique<BareRunner>(self, options.backend, hub);
  if (!engines.empty())
    return std::make_unique<EngineRunner>(std::move(engines[static_cast<size_t>(self.rank())]));
  Config config = self.config();
  config.backend = options.backend;
  return std::make_unique<EngineRunner>(need(Engine::start(config)));
}

int run_rank(const Options& options, Rankfile& self, const std::shared_ptr<void>& hub,
             std::vector<std::unique_ptr<Engine>>& engines) {
  self.meet();
  const double copy = copy_bandwidth();
  const auto runner = make_runner(options, self, hub, engines);
  const size_t most = parse_bytes(options.most);
  Memory memory(*runner, options.arena, most + 4096);
  nlohmann::json report = {{"machine", describe_machine()},
                           {"ranks", self.size()},
                           {"layer", options.layer},
                           {"backend", options.backend},
                           {"arena", options.arena},
                           {"collective", options.collective},
                           {"copy_GBps", copy},
                           {"rows", nlohmann::json::array()}};
  if (self.rank() == 0)
    std::printf(
        "# %s, %d ranks, %s %s, %s memory; streaming copy %.1f GB/s a rank\n"
        "%12s %12s %9s %8s %11s %11s %9s %9s %9s %6s\n",
        options.collective.c_str(), self.size(), options.backend.c_str(), options.layer.c_str(),
        options.arena ? "arena" : "private", copy, "size(B)", "count", "type", "redop", "time(us)",
        "p10(us)", "algbw", "busbw", "of copy", "#wrong");
  bool good = true;
  for (double bytes = static_cast<double>(parse_bytes(options.least));
       bytes <= static_cast<double>(most); bytes *= options.factor) {
    const auto row = run_case(*runner, options, static_cast<size_t>(bytes), self, memory, copy);
    good = good && row["wrong"].get<long>() <= 0;
    if (self.rank() == 0) print_row(row);
    report["rows"].push_back(row);
  }
  if (self.rank() == 0) write_json(options.json, report);
  self.meet();
  return good ? 0 : 1;
}

int run(const Options& options) {
  if (options.factor <= 1 || parse_bytes(options.least) == 0 || parse_bytes(options.most) == 0)
    give_up(Status(Code::kInvalidArgument, "-b and -e are sizes above 0, -f a factor above 1"));
  const bool threads = options.backend == "local";
  std::vector<std::unique_ptr<Engine>> engines;
  if (threads && options.layer == "engine")
    engines = need(Engine::start_local(options.ranks, need(Config::from_environment())));
  const std::shared_ptr<void> hub = threads ? Bare::make_hub(options.ranks) : nullptr;
  return run_job(options.ranks, threads,
                 [&](Rankfile& self) { return run_rank(options, self, hub, engines); });
}

}  // namespace
}  // namespace hora::benchmarks

int main(int argc, char** argv) {
  using hora::benchmarks::Options;
  Options options;
  CLI::App app("Measures Hora's collectives as nccl-tests do");
  app.add_option("--np", options.ranks, "ranks to start; ignored under horarun (also: -np)");
  app.add_option("-b,--minbytes", options.least, "least size, such as 8 or 1K")
      ->capture_default_str();
  app.add_option("-e,--maxbytes", options.most, "greatest size")->capture_default_str();
  app.add_option("-f,--stepfactor", options.factor, "from size to size")->capture_default_str();
  app.add_option("-d,--datatype", options.dtype, "float, half, bfloat16, int32 ...");
  app.add_option("-o,--op", options.reduce, "sum, avg, min, max, prod");
  app.add_option("-n,--iters", options.iterations, "iterations; 0: by size");
  app.add_option("-w,--warmup_iters", options.warmup, "before them");
  app.add_option("-c,--check", options.check, "compare a result with what it should be (0 or 1)");
  app.add_option("-t,--collective", options.collective,
                 "allreduce, reduce_scatter, allgather, alltoall, broadcast, barrier");
  app.add_option("--layer", options.layer)->check(CLI::IsMember({"backend", "engine"}));
  app.add_option("--backend", options.backend)
      ->check(CLI::IsMember({"shm", "tcp", "gloo", "local"}));
  app.add_flag("--arena", options.arena, "memory that peers reach in place");
  app.add_option("--json", options.json, "also write a report to this file");
  std::vector<std::string> words(argv + 1, argv + argc);
  std::replace(words.begin(), words.end(), std::string("-np"), std::string("--np"));
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return hora::benchmarks::run(options);
}
