// What the engine costs beyond moving bytes: small operations, many of them, and waiting.
#include "hora/engine.h"

#include <poll.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "benchmarks/job.h"
#include "benchmarks/report.h"

namespace hora::benchmarks {
namespace {

struct Options {
  std::vector<int> ranks = {2, 4};
  std::string backend = "shm", json;
  int rounds = 50;
};

Request request_for(std::string name, std::vector<float>& values) {
  Request request;
  request.name = std::move(name);
  request.reduce = ReduceOp::kSum;
  request.chain = "none";
  request.inputs = {{values.data(), {static_cast<int64_t>(values.size())}, DType::kFloat32, {}}};
  request.outputs = request.inputs;
  return request;
}

/// One rank's measurements, in seconds; each is the same on all ranks.
class Meter {
 public:
  Meter(Engine& engine, Rankfile& self, int rounds)
      : engine_(engine), self_(self), rounds_(rounds) {}

  std::vector<double> single() {
    std::vector<float> value(1);
    const Request request = request_for("single", value);
    return repeat(rounds_ * 40, [&] { need(engine_.run(request)); });
  }

  /// Submits `count` tensors of `elements` and waits for them all.
  std::vector<double> many(const std::string& name, size_t count, size_t elements) {
    std::vector<std::vector<float>> values(count, std::vector<float>(elements));
    std::vector<Request> requests;
    for (size_t i = 0; i < count; ++i)
      requests.push_back(request_for(name + std::to_string(i), values[i]));
    std::vector<Handle> handles(count);
    return repeat(rounds_, [&] {
      for (size_t i = 0; i < count; ++i) handles[i] = need(engine_.submit(requests[i]));
      for (const Handle handle : handles) need(engine_.wait(handle));
    });
  }

  std::vector<double> grouped(size_t count) {
    std::vector<std::vector<float>> values(count, std::vector<float>(1));
    Request request = request_for("grouped", values[0]);
    request.inputs.clear();
    for (auto& value : values) request.inputs.push_back({value.data(), {1}, DType::kFloat32, {}});
    request.outputs = request.inputs;
    return repeat(rounds_, [&] { need(engine_.run(request)); });
  }

  /// Processor time a second while nothing is asked of the engine.
  double idle_load(double seconds) {
    self_.meet();
    const double processor = processor_seconds(), begin = seconds_now();
    rest(seconds);
    return (processor_seconds() - processor) / (seconds_now() - begin);
  }

  /// Processor time a second of the ranks that wait for rank 0.
  double waiting_load(double seconds) {
    std::vector<float> value(1);
    const Request request = request_for("late", value);
    self_.meet();
    const double processor = processor_seconds(), begin = seconds_now();
    if (self_.rank() == 0) rest(seconds);
    need(engine_.run(request));
    return (processor_seconds() - processor) / (seconds_now() - begin);
  }

 private:
  static void rest(double seconds) { (void)::poll(nullptr, 0, static_cast<int>(seconds * 1000)); }

  template <class Work>
  std::vector<double> repeat(int rounds, Work work) {
    for (int i = 0; i < 5; ++i) work();  // learns names and buckets
    self_.meet();
    std::vector<double> samples;
    double begin = seconds_now();
    for (int i = 0; i < rounds; ++i) {
      work();
      const double end = seconds_now();
      samples.push_back(end - begin);
      begin = end;
    }
    return samples;
  }

  Engine& engine_;
  Rankfile& self_;
  const int rounds_;
};

/// The worst rank's number, on all ranks.
double worst(Rankfile& self, double value) {
  double result = 0;
  for (const std::string& text : self.gather(std::to_string(value)))
    result = std::max(result, std::stod(text));
  return result;
}

nlohmann::json run_rank(Rankfile& self, const Options& options) {
  Config config = self.config();
  config.backend = options.backend;
  const auto engine = need(Engine::start(config));
  Meter meter(*engine, self, options.rounds);
  nlohmann::json rows = nlohmann::json::array();
  const auto row = [&](const char* what, const char* unit, double median, double p10) {
    rows.push_back({{"what", what},
                    {"unit", unit},
                    {"median", worst(self, median)},
                    {"p10", worst(self, p10)}});
    if (self.rank() != 0) return;
    std::printf("%-34s %12.2f %12.2f %s\n", what, rows.back()["median"].get<double>(),
                rows.back()["p10"].get<double>(), unit);
    std::fflush(stdout);
  };
  const auto times = [&](const char* what, const std::vector<double>& samples) {
    row(what, "us", 1e6 * quantile(samples, 0.5), 1e6 * quantile(samples, 0.1));
  };
  const auto load = [&](const char* what, double share) {
    row(what, "% of a core", 100 * share, 100 * share);
  };
  if (self.rank() == 0)
    std::printf("# %d ranks, %s\n%-34s %12s %12s\n", self.size(), options.backend.c_str(), "what",
                "median", "p10");
  times("4 bytes, synchronous", meter.single());
  times("200 x 10 KB, asynchronous", meter.many("medium", 200, 2500));
  times("1000 x 4 bytes, asynchronous", meter.many("small", 1000, 1));
  times("1000 x 4 bytes, one group", meter.grouped(1000));
  load("idle for 3 s", meter.idle_load(3));
  load("waiting 3 s for a late rank", meter.waiting_load(3));
  need(engine->shutdown());
  return rows;
}

int run(const Options& options) {
  nlohmann::json report = {{"machine", describe_machine()},
                           {"backend", options.backend},
                           {"worlds", nlohmann::json::array()}};
  int status = 0;
  for (const int ranks : options.ranks) {
    const std::string part = options.json.empty() ? "" : options.json + "." + std::to_string(ranks);
    status |= run_job(ranks, false, [&](Rankfile& self) {
      const nlohmann::json rows = run_rank(self, options);
      if (self.rank() == 0) write_json(part, {{"ranks", self.size()}, {"rows", rows}});
      self.meet();
      return 0;
    });
    if (part.empty() || status != 0) continue;
    report["worlds"].push_back(read_json(part));
    std::remove(part.c_str());
  }
  write_json(options.json, report);
  return status;
}

}  // namespace
}  // namespace hora::benchmarks

int main(int argc, char** argv) {
  hora::benchmarks::Options options;
  CLI::App app("Measures what the engine costs");
  app.add_option("--np", options.ranks, "numbers of ranks to run with")->capture_default_str();
  app.add_option("--backend", options.backend)->check(CLI::IsMember({"shm", "tcp", "gloo"}));
  app.add_option("--rounds", options.rounds, "repetitions")->capture_default_str();
  app.add_option("--json", options.json, "also write a report to this file");
  CLI11_PARSE(app, argc, argv);
  return hora::benchmarks::run(options);
}
