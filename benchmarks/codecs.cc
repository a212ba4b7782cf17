// How fast chains encode and decode, beside memcpy of the same floats in turn with them, and beside
// loops written by hand for one quantizer (fused.h). One core; cache-hot (256 KiB again and again)
// and from memory (100 MB). GB/s of float32 gradients; medians.

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "benchmarks/fused.h"
#include "benchmarks/job.h"
#include "benchmarks/report.h"
#include "compressors/chain.h"
#include "compressors/heap_workspace.h"
#include "compressors/registry.h"

namespace hora::benchmarks {
namespace {

/// A chain at work on one gradient, again and again. Of a chain with several rounds, encoding is
/// all that makes payloads, and decoding is what settles the memory.
class Work {
 public:
  Work(const std::string& chain, size_t count)
      // A matrix, for chains that need one; past warm-ups, in a step that learns no basis.
      : codec_(ChainConfig::parse(chain).value().codec({1, 256, count / 256}, 1'000'001).value()),
        state_(make_state(*codec_, 0, count)),
        g_(count),
        sum_(count) {
    for (uint32_t i = 0; i < count; ++i) {
      const float u = unit_interval(random_bits({1, 2}, i)) - 0.5f;
      g_[i] = u * u * u;
    }
    for (int round = 0; round < codec_->rounds(); ++round)
      payloads_.emplace_back(codec_->round_bytes(round, count, 1));
  }

  void encode() {
    ++step_.step;
    codec_->encode(turn_, piece(), state_, payloads_[0].data());
    for (size_t round = 1; round < payloads_.size(); ++round)
      codec_->next(turn_, piece(), state_, payloads_[round - 1].data(), payloads_[round].data());
  }
  void decode() {
    const Status done =
        codec_->traits().linear
            ? codec_->finish(turn_, piece(), state_, payloads_.back(), sum_.data(), 1.0f)
            : codec_->decode_add(turn_, sent(payloads_.back()), 0, sum_, 1.0f);
    HORA_CHECK(done.ok(), done.message());
  }
  void copy() { std::memcpy(sum_.data(), g_.data(), g_.size() * sizeof(float)); }
  void run(const FusedLoop& loop) {
    loop.encode(g_.data(), state_.find("residual"), g_.size(), payloads_[0].data());
  }

  double bytes() const { return 4.0 * static_cast<double>(g_.size()); }
  double ratio() const {
    double all = 0;
    for (const auto& payload : payloads_) all += static_cast<double>(sent(payload).size());
    return bytes() / all;
  }
  /// Everything that encoding changes.
  std::vector<float> residual() { return state_.slab("residual")->wide(); }
  const std::vector<std::byte>& payload() const { return payloads_[0]; }

 private:
  Piece piece() const { return {g_.data(), 0, g_.size()}; }
  std::span<const std::byte> sent(std::span<const std::byte> payload) const {
    return payload.first(codec_->used_bytes(payload, g_.size()));
  }

  const std::unique_ptr<Codec> codec_;
  State state_;
  HeapWorkspace workspace_;
  StepContext step_;
  const Turn turn_{step_, 0, workspace_};
  std::vector<float> g_, sum_;
  std::vector<std::vector<std::byte>> payloads_;
};

/// Seconds of some runs, in turn with what they are compared with.
class Samples {
 public:
  template <class Run>
  void take(int repeat, Run run) {
    const double begin = seconds_now();
    for (int i = 0; i < repeat; ++i) run();
    seconds_.push_back((seconds_now() - begin) / repeat);
  }
  double median() const { return quantile(seconds_, 0.5); }

 private:
  std::vector<double> seconds_;
};

struct Speeds {
  double copy, encode, decode, ratio, by_hand = 0;
};

const FusedLoop* loop_of(const std::string& chain) {
  for (const FusedLoop& loop : fused_loops()) {
    if (loop.chain == chain) return &loop;
  }
  return nullptr;
}

/// What is compared does the same, to the byte.
void check_loop(const FusedLoop& loop) {
  Work ours(loop.chain, 65536), theirs(loop.chain, 65536);
  for (int i = 0; i < 3; ++i) {
    ours.encode();
    theirs.run(loop);
    HORA_CHECK(ours.payload() == theirs.payload() && ours.residual() == theirs.residual(),
               fmt::format("{}: the loop by hand does something else", loop.chain));
  }
}

Speeds measure(const std::string& chain, size_t count, int times, int repeat) {
  Work work(chain, count);
  const FusedLoop* const loop = loop_of(chain);
  Samples encode, decode, copy, by_hand;
  for (int i = 0; i < 3; ++i) work.encode();
  for (int i = 0; i < times; ++i) {
    encode.take(repeat, [&] { work.encode(); });
    decode.take(repeat, [&] { work.decode(); });
    copy.take(repeat, [&] { work.copy(); });
    if (loop) by_hand.take(repeat, [&] { work.run(*loop); });
  }
  const double unit = work.bytes() / 1e9;
  return {unit / copy.median(), unit / encode.median(), unit / decode.median(), work.ratio(),
          loop ? unit / by_hand.median() : 0};
}

std::string share(double speed, double of) {
  return of > 0 ? fmt::format("{:.2f}", speed / of) : "";
}

nlohmann::json measure_all(const std::vector<std::string>& chains, int times) {
  nlohmann::json rows = nlohmann::json::array();
  fmt::print(
      "instruction set {}\n\n"
      "| chain | ratio | hot: encode | decode | encode / by hand "
      "| memory: encode | decode | encode / copy | decode / copy | both / copy |\n"
      "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
      chosen_kernel_isa());
  for (const std::string& chain : chains) {
    const Speeds hot = measure(chain, 65536, 20 * times + 1, 20);
    const Speeds cold = measure(chain, 24'903'680, times, 1);
    const double both = 1 / (1 / cold.encode + 1 / cold.decode);
    fmt::print("| {} | {:.1f} | {:.2f} | {:.2f} | {} | {:.2f} | {:.2f} | {} | {} | {} |\n", chain,
               cold.ratio, hot.encode, hot.decode, share(hot.encode, hot.by_hand), cold.encode,
               cold.decode, share(cold.encode, cold.copy), share(cold.decode, cold.copy),
               share(both, cold.copy));
    std::fflush(stdout);
    for (const auto& [where, speeds] : {std::pair{"hot", hot}, {"memory", cold}}) {
      rows.push_back({{"chain", chain},
                      {"where", where},
                      {"ratio", speeds.ratio},
                      {"copy", speeds.copy},
                      {"encode", speeds.encode},
                      {"decode", speeds.decode},
                      {"by hand", speeds.by_hand}});
    }
  }
  return rows;
}

}  // namespace
}  // namespace hora::benchmarks

int main(int argc, char** argv) {
  using namespace hora;
  std::vector<std::string> chains;
  std::string json;
  int times = 7;
  CLI::App app("Measures how fast chains encode and decode");
  app.add_option("chains", chains, "which ones; all presets, and some more");
  app.add_option("--times", times, "samples from memory")->capture_default_str();
  app.add_option("--json", json, "also write a report to this file");
  CLI11_PARSE(app, argc, argv);
  if (chains.empty()) {
    for (const Preset& preset : presets()) chains.push_back(preset.name);
    for (const char* more : {"bf16", "ef+quant:bits=4", "ef:dtype=bf16+quant:bits=8,round=nearest",
                             "drop:ratio=0.1%", "hadamard+onebit", "powersgd:rank=4"})
      chains.push_back(more);
    for (const auto& loop : benchmarks::fused_loops()) chains.push_back(loop.chain);
  }
  for (const auto& loop : benchmarks::fused_loops()) benchmarks::check_loop(loop);
  nlohmann::json report = {{"machine", benchmarks::describe_machine()}};
  report["rows"] = benchmarks::measure_all(chains, times);
  benchmarks::write_json(json, report);
  return 0;
}
