// What peers send during an exchange of a compressed tensor, in every aggregation: messages of a
// merge, sums of rounds, ballots, payloads. This rank's own part is what it sent.
//
//   input = setting [newline count:u8 ranks:u8 bytes], the bytes again and again
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "compressors/rules.h"
#include "compressors/state_store.h"
#include "ops/aggregate.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

/// The second of some ranks, whose peers say whatever stands in the input.
class Liars final : public Communicator {
 public:
  Liars(int size, std::string_view bytes) : size_(size), bytes_(bytes) {}
  int rank() const override { return std::min(1, size_ - 1); }
  int size() const override { return size_; }

  Ticket allreduce(Lane&, uint64_t, std::span<const Segment> segments,
                   const Reduction& reduction) override {
    for (const Segment& segment : segments)
      lie(segment.data, segment.count * bytes_of(reduction.dtype));
    co_return Status();
  }
  Ticket reduce_scatter(Lane&, uint64_t, const std::byte*, std::byte*, std::span<const size_t>,
                        const Reduction&) override {
    co_return Status(Code::kInternal, "no aggregation needs it");
  }
  Ticket allgather(Lane&, uint64_t, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override {
    receive(input, output, bytes);
    co_return Status();
  }
  Ticket alltoall(Lane&, uint64_t, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive_bytes) override {
    for (int r = 0; r < rank(); ++r) input += send[static_cast<size_t>(r)];
    receive(input, output, receive_bytes);
    co_return Status();
  }
  Ticket broadcast(Lane&, uint64_t, std::span<const Segment>, int) override {
    co_return Status(Code::kInternal, "no aggregation needs it");
  }
  Ticket barrier(Lane&, uint64_t) override { co_return Status(); }

 private:
  void receive(const std::byte* own, std::byte* output, std::span<const size_t> bytes) {
    for (size_t r = 0; r < bytes.size(); output += bytes[r++]) {
      if (r != static_cast<size_t>(rank()))
        lie(output, bytes[r]);
      else if (output != own && bytes[r] > 0)
        std::memcpy(output, own, bytes[r]);
    }
  }
  void lie(void* to, size_t bytes) {
    for (size_t i = 0; i < bytes && !bytes_.empty(); ++i)
      static_cast<char*>(to)[i] = bytes_[at_++ % bytes_.size()];
  }

  const int size_;
  const std::string_view bytes_;
  size_t at_ = 0;
};

float sum_of(const State& state) {
  float sum = 0;
  for (const State::Slab& slab : state.slabs) {
    for (const float value : slab.values)
      if (slab.spec.law == Law::kPending) sum += value;
  }
  return sum;
}

void exchange(const ChainConfig& chain, size_t count, int ranks, std::string_view bytes) {
  const auto made = chain.codec({1, 1, count});
  if (!made.ok()) return;
  const Codec& codec = *made.value();
  const Aggregation how = chain.aggregation(codec, ranks);
  Liars liars(ranks, bytes);
  StateStore store;
  TensorState& state = store.get(0, "w", codec, chain.canonical(),
                                 {how == Aggregation::kRecode, liars.rank(), ranks});
  std::vector<float> gradient(count), result(count);
  for (size_t i = 0; i < count; ++i) gradient[i] = static_cast<float>(i % 5) - 1;
  Slot slot;
  slot.codec = &codec;
  slot.input = reinterpret_cast<const std::byte*>(gradient.data());
  slot.result = reinterpret_cast<std::byte*>(result.data());
  slot.count = count;
  slot.mine = &state.mine;
  slot.owned = &state.owned;
  slot.step = {.seed = 1, .rank = liars.rank(), .size = ranks};
  Lane lane(0);
  lane.start(aggregate(lane, liars, 1, how, {&slot, 1}, {.degrees = chain.degrees()}));
  while (!lane.idle()) lane.progress();
  const Status outcome = lane.outcome();
  if (outcome.ok()) return;
  FUZZ_CHECK(outcome.code() == Code::kCorrupt);
  if (!codec.traits().conserves) return;
  float asked = 0;
  for (const float value : gradient) asked += value;
  FUZZ_CHECK(std::fabs(sum_of(state.mine) - asked) < 1e-2f * (1 + std::fabs(asked)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view text = fuzz::text(data, bytes);
  const size_t line = std::min(text.find('\n'), text.size());
  const auto rules = CompressionRules::parse(text.substr(0, line));
  if (!rules.ok() || rules.value().chain().none() || line + 3 > text.size()) return 0;
  exchange(rules.value().chain(), static_cast<uint8_t>(text[line + 1]) * size_t{3},
           1 + static_cast<uint8_t>(text[line + 2]) % 9, text.substr(line + 3));
  return 0;
}
