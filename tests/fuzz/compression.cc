// Compression settings, and payloads that a peer sends for them.
//
//   input = setting [newline count:u8 payload]
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compressors/codec.h"
#include "compressors/rules.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

class Memory final : public Workspace {
 public:
  std::byte* memory(size_t slot, size_t bytes) override {
    if (slots_.size() <= slot) slots_.resize(slot + 1);
    if (slots_[slot].size() * sizeof(Line) < bytes) slots_[slot].resize(bytes / sizeof(Line) + 1);
    return reinterpret_cast<std::byte*>(slots_[slot].data());
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<std::vector<Line>> slots_;
};

// As it came, which is too short or too long as a rule; cut or filled up to what it may be at most;
// and cut where it says that it ends.
void decode(const ChainConfig& chain, size_t count, std::string_view bytes) {
  const auto codec = chain.codec({1, 1, count});
  if (!codec.ok() || codec.value()->traits().linear) return;
  Memory memory;
  const StepContext step;
  std::vector<std::byte> payload(bytes.size());
  std::ranges::copy(std::as_bytes(std::span(bytes)), payload.begin());
  for (int i = 0; i < 3; ++i) {
    if (i == 1) payload.resize(codec.value()->payload_bytes(count));
    const size_t used = codec.value()->used_bytes(payload, count);
    FUZZ_CHECK(used <= payload.size());
    if (i == 2) payload.resize(used);
    std::vector<float> sum(count);
    const Status added = codec.value()->decode_add({step, 0, memory}, payload, 0, sum, 1.0f);
    if (added.ok()) continue;
    FUZZ_CHECK(added.code() == Code::kCorrupt);
    FUZZ_CHECK(sum == std::vector<float>(count));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view text = fuzz::text(data, bytes);
  const size_t line = std::min(text.find('\n'), text.size());
  const auto rules = CompressionRules::parse(text.substr(0, line));
  if (!rules.ok()) {
    FUZZ_CHECK(!rules.status().message().empty());
    return 0;
  }
  const std::string canonical = rules.value().canonical();
  const auto again = CompressionRules::parse(canonical);
  FUZZ_CHECK(again.ok() && again.value().canonical() == canonical);
  if (line + 2 < text.size() && !rules.value().chain().items().empty())
    decode(rules.value().chain(), 1 + static_cast<uint8_t>(text[line + 1]) * size_t{3},
           text.substr(line + 2));
  return 0;
}
