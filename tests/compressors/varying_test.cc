// Goal: payloads whose sizes vary travel as long as they are, and nobody believes a size that
// cannot be; where nothing varies, nothing more is sent. Method: ranks over the local backend; a
// communicator that announces other sizes than there are.

#include <cstring>
#include <numeric>
#include <optional>

#include "tests/compressors/job.h"

namespace hora {
namespace {

const std::vector<TensorSpec> kOne = {{1, 100'000}};

/// Sums of eight uniform numbers, close to normal ones.
float normal(uint64_t tensor, int rank, uint64_t step, size_t i) {
  const Key key = make_key(12, step, tensor, static_cast<uint64_t>(rank));
  float sum = 0;
  for (uint32_t k = 0; k < 8; ++k)
    sum += unit_interval(random_bits(key, static_cast<uint32_t>(8 * i) + k)) - 0.5f;
  return 1e-3f * sum;
}

/// In its `lies`-th exchange this rank announces `size`; or if that is nothing, 8 bytes less than
/// there are, and that is what it sends to owners.
class Liar final : public Communicator {
 public:
  Liar(std::unique_ptr<Communicator> real, int lies, std::optional<uint64_t> size)
      : real_(std::move(real)), lies_(lies), size_(size) {}
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  Ticket allgather(Lane& lane, uint64_t tag, const std::byte* input, std::byte* output,
                   std::span<const size_t> bytes) override {
    const std::byte* said = changed(input, bytes[static_cast<size_t>(rank())]);
    return real_->allgather(lane, tag, said, output, bytes);
  }
  Ticket alltoall(Lane& lane, uint64_t tag, const std::byte* input, std::span<const size_t> send,
                  std::byte* output, std::span<const size_t> receive) override {
    if (lies_ >= 0 && calls_ == lies_ + 1 && !size_) input = shorten(input, send);
    const std::byte* said = changed(input, std::accumulate(send.begin(), send.end(), size_t{0}));
    return real_->alltoall(lane, tag, said, send, output, receive);
  }
  Ticket allreduce(Lane&, uint64_t, std::span<const Segment>, const Reduction&) override {
    co_return Status(Code::kInternal, "nothing here is summed on the way");
  }
  Ticket reduce_scatter(Lane&, uint64_t, const std::byte*, std::byte*, std::span<const size_t>,
                        const Reduction&) override {
    co_return Status(Code::kInternal, "nothing here is summed on the way");
  }
  Ticket broadcast(Lane&, uint64_t, std::span<const Segment>, int) override {
    co_return Status(Code::kInternal, "nothing here is broadcast");
  }
  Ticket barrier(Lane&, uint64_t) override { co_return Status(); }

 private:
  const std::byte* changed(const std::byte* input, size_t bytes) {
    if (calls_++ != lies_) return input;
    said_.resize(bytes / sizeof(uint64_t));
    std::memcpy(said_.data(), input, bytes);
    for (uint64_t& said : said_) said = size_.value_or(said - 8);
    return reinterpret_cast<const std::byte*>(said_.data());
  }

  const std::byte* shorten(const std::byte* input, std::span<const size_t>& send) {
    sizes_.assign(send.begin(), send.end());
    parts_.clear();
    for (size_t& bytes : sizes_) {
      parts_.insert(parts_.end(), input, input + bytes - 8);
      input += bytes;
      bytes -= 8;
    }
    send = sizes_;
    return parts_.data();
  }

  const std::unique_ptr<Communicator> real_;
  const int lies_;
  const std::optional<uint64_t> size_;
  int calls_ = 0;
  std::vector<uint64_t> said_;
  std::vector<size_t> sizes_;
  std::vector<std::byte> parts_;
};

/// The exchanges of one step.
int exchanges(const std::string& chain) {
  Job job(chain, 3, kTensors, {});
  expect_ok(job.step(0, element));
  return job.calls();
}

TEST(Varying, SizesAreToldOnlyWhereTheyVary) {
  EXPECT_EQ(exchanges("onebit"), 2);
  EXPECT_EQ(exchanges("lossless:room=0.9"), 2);
  EXPECT_EQ(exchanges("lossless"), 4);
  EXPECT_EQ(exchanges("onebit;down=lossless"), 3);
  EXPECT_EQ(exchanges("lossless;down=onebit"), 3);
  EXPECT_EQ(exchanges("drop;agg=gather"), 1);
  EXPECT_EQ(exchanges("dryden;agg=gather"), 1);
  EXPECT_EQ(exchanges("strom;agg=gather"), 2);
  EXPECT_EQ(exchanges("strom;agg=merge"), exchanges("drop;agg=merge"));
}

TEST(Varying, LosslessSumsAreThoseOfFloatsInRankOrderInFewerBytes) {
  for (const char* chain : {"lossless", "lossless;agg=gather"}) {
    Job job(chain, 3, kOne, {.op = ReduceOp::kSum});
    expect_ok(job.step(0, normal));
    const auto result = job.result(0, 0);
    for (size_t i = 0; i < result.size(); ++i) {
      float sum = 0;
      for (int r = 0; r < 3; ++r) sum += normal(1, r, 0, i);
      ASSERT_EQ(bits_of(result[i]), bits_of(sum)) << chain << " " << i;
    }
  }
  Job job("lossless", 4, kOne, {});
  expect_ok(job.step(0, normal));
  const double share = static_cast<double>(job.sent()) / (2 * 4e5 * 3 / 4);
  RecordProperty("share", std::to_string(share));
  EXPECT_LT(share, 0.86);
  EXPECT_GT(share, 0.8);
}

TEST(Varying, AThresholdSendsWhatReachesIt) {
  const auto spikes = [](size_t each) {
    return [=](uint64_t, int, uint64_t, size_t i) { return i % each == 0 ? 1.0f : 0.001f; };
  };
  Job few("strom:tau=0.5", 2, kOne, {}), many("strom:tau=0.5", 2, kOne, {});
  expect_ok(few.step(0, spikes(1000)));
  expect_ok(many.step(0, spikes(100)));
  // For each of 100 and of 1000 an index of 8 bits and a sign, and for gaps of 128 a bit; a head, a
  // size, and what fills words.
  EXPECT_NEAR(static_cast<double>(few.sent()), 32 + 100 * 9 / 8.0 + 1e5 / 128 / 8, 32);
  EXPECT_NEAR(static_cast<double>(many.sent()), 32 + 1000 * 9 / 8.0 + 1e5 / 128 / 8, 32);
}

TEST(Varying, ASizeThatCannotBeIsRefusedAndNothingIsLost) {
  struct Case {
    const char* chain;
    int lies;
  };
  for (const auto& [chain, lies] : {Case{"ef+lossless", 0},
                                    {"ef+lossless", 2},
                                    {"ef+lossless;agg=gather", 0},
                                    {"strom:tau=0.5;agg=gather", 0}}) {
    for (const std::optional<uint64_t> size :
         {std::optional<uint64_t>(), std::optional<uint64_t>(3), std::optional<uint64_t>(1 << 20),
          std::optional<uint64_t>(~uint64_t{7})}) {
      const auto wrap = [&, lies = lies](std::unique_ptr<Communicator> real) {
        const int wrong = real->rank() == 1 ? lies : -1;
        return std::make_unique<Liar>(std::move(real), wrong, size);
      };
      Job job(chain, 3, kOne, {.wrap = wrap});
      for (const Status& outcome : job.step(0, element)) {
        ASSERT_EQ(outcome.code(), Code::kCorrupt) << chain << " " << size.value_or(0);
        const std::string guilty = size ? "rank 1 of the set announces" : "rank 1 of the set";
        ASSERT_NE(outcome.message().find(guilty), std::string::npos) << outcome.message();
      }
      for (size_t i = 0; i < kOne[0].count; i += 7) {
        double asked = 0;
        for (int r = 0; r < 3; ++r) asked += element(1, r, 0, i);
        ASSERT_NEAR(job.owed(0, i), asked, 1e-4) << chain << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace hora
