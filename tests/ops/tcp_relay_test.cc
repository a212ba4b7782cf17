// Goal: a relay moves every byte once it is made and none before, in parts of any size and over any
// number of members and streams; its errors end it; an exchange that is cut off leaves the whole
// gradient owed.
// Method: ranks as threads over real connections on loopback. Bytes that are not made yet are
// wrong ones.

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compressors/state_store.h"
#include "ops/aggregate.h"
#include "ops/tcp/tcp.h"
#include "tests/support/run_ranks.h"
#include "tests/support/tcp_pairs.h"

namespace hora {
namespace {

using support::TcpPairs;
using Memory = std::vector<std::byte>;

uint8_t word(size_t from, size_t owner, size_t i) {
  return static_cast<uint8_t>(7 * from + 31 * owner + i + i / 251);
}

/// Says word() to everybody; answers with sums; keeps what it reads. Works in portions that nothing
/// divides.
class Talk final : public Relay {
 public:
  Talk(size_t me, const std::vector<size_t>& sizes) : me_(me), ranks_(sizes.size()) {
    std::partial_sum(sizes.begin(), sizes.end(), std::back_inserter(ends_));
    for (size_t r = 0; r < ranks_; ++r) heard_ends_.push_back((r + 1) * sizes[me]);
    lay_out(said, 0, ends_);
    lay_out(heard, 1, heard_ends_);
    lay_out(answers, 2, ends_);
    read_.resize(ranks_);
  }

  bool say() override {
    bool any = false;
    for (size_t owner = 0; owner < ranks_; ++owner) {
      size_t& there = said.there[owner];
      const size_t until = std::min(said.ends[owner], there + 4999);
      any = any || there < until;
      for (; there < until; ++there)
        said.data[there] = std::byte{word(me_, owner, there - said.begin(owner))};
    }
    return any;
  }

  bool answer() override {
    size_t heard_by_all = ~size_t{0};
    for (size_t r = 0; r < ranks_; ++r)
      heard_by_all = std::min(heard_by_all, heard.there[r] - heard.begin(r));
    if (fails && heard_by_all > 0) status = Status(Code::kCorrupt, "cannot answer");
    size_t& there = answers.there[me_];
    const size_t begin = answers.begin(me_);
    const size_t until = std::min(begin + heard_by_all, there + 7001);
    if (there == until || !status.ok()) return false;
    for (; there < until; ++there) {
      unsigned sum = 0;
      for (size_t r = 0; r < ranks_; ++r)
        sum += static_cast<unsigned>(heard.data[heard.begin(r) + there - begin]);
      answers.data[there] = static_cast<std::byte>(sum);
    }
    return true;
  }

  bool read() override {
    for (size_t owner = 0; owner < ranks_; ++owner) {
      const size_t begin = answers.begin(owner), there = answers.there[owner] - begin;
      if (read_[owner].size() == there) continue;
      for (size_t i = read_[owner].size(); i < there; ++i)
        read_[owner].push_back(answers.data[begin + i]);
      return true;
    }
    return false;
  }

  std::string mistake() const {
    for (size_t owner = 0; owner < ranks_; ++owner) {
      const size_t size = answers.ends[owner] - answers.begin(owner);
      HORA_WANT(read_[owner].size() == size, "owner " + std::to_string(owner) + ": not all");
      for (size_t i = 0; i < size; ++i) {
        unsigned sum = 0;
        for (size_t r = 0; r < ranks_; ++r) sum += word(r, owner, i);
        HORA_WANT(read_[owner][i] == static_cast<std::byte>(sum),
                  "owner " + std::to_string(owner) + ", byte " + std::to_string(i));
      }
    }
    return "";
  }

  bool fails = false;

 private:
  void lay_out(Parts& parts, size_t index, const std::vector<size_t>& ends) {
    memory_[index].assign(ends.back(), std::byte{0xee});
    parts.data = memory_[index].data();
    parts.ends = ends;
    there_[index].resize(ends.size());
    parts.there = there_[index];
    for (size_t r = 0; r < ends.size(); ++r) parts.there[r] = parts.begin(r);
  }

  const size_t me_, ranks_;
  std::vector<size_t> ends_, heard_ends_;
  Memory memory_[3];
  std::vector<size_t> there_[3];
  std::vector<Memory> read_;
};

/// One rank on its connections, each rank on a host of its own.
struct Member {
  Member(TcpPairs& pairs, Rank rank, int size, int streams) {
    tcp::Options options = support::tcp_options(rank);
    options.streams = streams;
    backend = tcp::open(pairs.dial(rank), options);
    std::vector<Rank> ranks(static_cast<size_t>(size));
    std::iota(ranks.begin(), ranks.end(), 0);
    world = backend->communicator(0, ranks, 0).value();
  }
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> world;
  Lane lane{0};
};

TEST(TcpRelay, EveryByteTravelsOnceItIsMade) {
  const std::vector<std::vector<size_t>> cases = {
      {100'000}, {1, 0}, {16 << 10, 300'000}, {70'001, 0, 5}, {3, 200'000, 16'385, 0, 3'000'000}};
  for (const auto& sizes : cases) {
    for (const int streams : {1, 3}) {
      const int size = static_cast<int>(sizes.size());
      TcpPairs pairs(size, streams);
      const auto body = [&](Rank rank) -> std::string {
        Member member(pairs, rank, size, streams);
        for (uint64_t step = 1; step <= 2; ++step) {
          Talk talk(static_cast<size_t>(rank), sizes);
          HORA_WANT_OK(
              support::run(member.lane, member.world->relay(member.lane, Tag::of(step, 0), talk)));
          HORA_WANT_NOTHING(talk.mistake());
        }
        return "";
      };
      EXPECT_EQ(support::run_threads(size, body), "") << size << " ranks, " << streams;
    }
  }
}

TEST(TcpRelay, AnErrorOfTheWorkEndsItAndTheConnections) {
  TcpPairs pairs(2, 1);
  const auto body = [&](Rank rank) -> std::string {
    Member member(pairs, rank, 2, 1);
    Talk talk(static_cast<size_t>(rank), {50'000, 50'000});
    talk.fails = rank == 0;
    const Status status =
        support::run(member.lane, member.world->relay(member.lane, Tag::of(1, 0), talk));
    HORA_WANT(status.code() == (rank == 0 ? Code::kCorrupt : Code::kPeerLost), status.message());
    if (rank == 1) return "";
    const Status later = support::run(member.lane, member.world->barrier(member.lane, 99));
    HORA_WANT(later.message() == "cannot answer", later.message());
    return "";
  };
  EXPECT_EQ(support::run_threads(2, body), "");
}

// Rank 1 never comes. However far rank 0 has got when it is told to give up, it owes everything.
TEST(TcpRelay, AnExchangeThatIsCutOffLeavesTheGradientOwed) {
  constexpr size_t kCount = 700'000;
  const auto config = ChainConfig::parse("ef+quant:bits=8,round=nearest").value();
  for (const int turns : {0, 1, 3, 20}) {
    TcpPairs pairs(2, 1);
    Member member(pairs, 0, 2, 1);
    const auto codec = config.codec({1, 1, kCount}).value();
    StateStore store;
    TensorState& state = store.get(0, "t", *codec, config.canonical(), {true, 0, 2, true});
    std::vector<float> gradient(kCount);
    for (size_t i = 0; i < kCount; ++i) gradient[i] = static_cast<float>(i % 1000) - 499.5f;
    std::vector<float> result = gradient;
    Slot slot;
    slot.codec = codec.get();
    slot.input = slot.result = reinterpret_cast<std::byte*>(result.data());
    slot.count = kCount;
    slot.mine = &state.mine, slot.owned = &state.owned;
    slot.step = {.seed = 1, .step = 1, .rank = 0, .size = 2};
    member.lane.start(
        aggregate(member.lane, *member.world, 1, Aggregation::kRecode, {&slot, 1}, {}));
    for (int i = 0; i < turns; ++i) member.lane.progress();
    member.lane.abort(Status(Code::kPeerLost, "rank 1 was lost"));
    while (!member.lane.idle()) member.lane.progress();
    EXPECT_EQ(member.lane.outcome().message(), "rank 1 was lost");
    const auto& owed = state.mine.slabs[0].values;
    size_t wrong = 0;
    for (size_t i = 0; i < kCount; ++i)
      wrong += !(std::abs(owed[i] - gradient[i]) <= 1e-3f * std::abs(gradient[i]));
    EXPECT_EQ(wrong, 0u) << turns;
  }
}

}  // namespace
}  // namespace hora
