// How fast chains encode and decode, beside memcpy of the same floats in the same process. One
// core; cache-hot (256 KiB again and again) and from memory (100 MB). GB/s of float32 gradients;
// medians.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compressors/chain.h"
#include "compressors/registry.h"

namespace hora {
namespace {

class Memory final : public Workspace {
 public:
  std::byte* memory(size_t slot, size_t bytes) override {
    if (slots_.size() <= slot) slots_.resize(slot + 1);
    if (slots_[slot].size() < bytes) slots_[slot].resize(bytes);
    return slots_[slot].data();
  }

 private:
  std::vector<std::vector<std::byte>> slots_;
};

template <class Work>
double median_seconds(int times, Work work) {
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    seconds.push_back(took.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
  return seconds[static_cast<size_t>(times / 2)];
}

struct Speeds {
  double copy, encode, decode, ratio;
};

Speeds measure(const std::string& chain, size_t count, int times) {
  const auto config = ChainConfig::parse(chain);
  HORA_CHECK(config.ok(), config.status().message());
  // A matrix, for chains that need one.
  const Extent extent{1, 256, count / 256};
  const auto codec = config.value().codec(extent).value();
  State state = make_state(*codec, 0, count);
  std::vector<float> g(count), sum(count);
  for (uint32_t i = 0; i < count; ++i) {
    const float u = unit_interval(random_bits({1, 2}, i)) - 0.5f;
    g[i] = u * u * u;
  }
  std::vector<std::byte> payload(codec->payload_bytes(count));
  Memory memory;
  StepContext step;
  const Turn turn{step, 0, memory};
  const double bytes = 4.0 * static_cast<double>(count);
  const auto encode = [&] {
    ++step.step;
    codec->encode(turn, {g.data(), 0, count}, state, payload.data());
  };
  for (int i = 0; i < 3; ++i) encode();
  Speeds speeds{};
  speeds.encode = bytes / median_seconds(times, encode) / 1e9;
  const auto decode = [&] { (void)codec->decode_add(turn, payload, 0, sum, 1.0f); };
  if (codec->rounds() == 1) speeds.decode = bytes / median_seconds(times, decode) / 1e9;
  const auto copy = [&] { std::memcpy(sum.data(), g.data(), count * 4); };
  speeds.copy = bytes / median_seconds(times, copy) / 1e9;
  speeds.ratio = bytes / static_cast<double>(payload.size());
  return speeds;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) {
  using namespace hora;
  std::vector<std::string> chains(argv + 1, argv + argc);
  if (chains.empty()) {
    for (const Preset& preset : presets()) chains.push_back(preset.name);
    for (const char* more : {"bf16", "ef+quant:bits=8,round=nearest", "quant:bits=4",
                             "drop:ratio=0.1%", "hadamard+onebit", "powersgd:rank=4"})
      chains.push_back(more);
  }
  fmt::print("instruction set {}\n{:<34} {:>7} | {:>8} {:>8} | {:>8} {:>8} {:>9} {:>9}\n",
             chosen_kernel_isa(), "chain", "ratio", "hot enc", "hot dec", "enc", "dec", "enc/copy",
             "dec/copy");
  for (const std::string& chain : chains) {
    const Speeds hot = measure(chain, 65536, 401), cold = measure(chain, 25'000'192, 7);
    fmt::print("{:<34} {:>7.1f} | {:>8.2f} {:>8.2f} | {:>8.2f} {:>8.2f} {:>9.2f} {:>9.2f}\n", chain,
               cold.ratio, hot.encode, hot.decode, cold.encode, cold.decode,
               cold.encode / cold.copy, cold.decode / cold.copy);
  }
  return 0;
}
