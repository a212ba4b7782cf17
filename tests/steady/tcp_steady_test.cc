// Goal: once warm, the tcp backend allocates nothing for its operations, and no matter whether they
// are small or large. Method: as steady_test.cc, with two ranks that do the same over and over.

#include <barrier>
#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "ops/tcp/tcp.h"
#include "tests/steady/allocations.h"
#include "tests/support/run_ranks.h"
#include "tests/support/tcp_pairs.h"

namespace hora {
namespace {

constexpr int kWarm = 10, kCounted = 50;

/// Every operation once, on the same memory.
std::string step(Communicator& world, Lane& lane, uint64_t& sequence, std::vector<float>& values,
                 std::vector<float>& results) {
  const auto tag = [&] { return Tag::of(++sequence, 0); };
  auto* const data = reinterpret_cast<std::byte*>(values.data());
  auto* const output = reinterpret_cast<std::byte*>(results.data());
  const Reduction reduction{DType::kFloat32, ReduceOp::kMax};
  for (const size_t count : {size_t{1}, size_t{5'000}, values.size()}) {
    const Segment segments[] = {{data, count / 2}, {data + count / 2 * 4, count - count / 2}};
    const size_t halves[] = {count / 2, count - count / 2};
    const size_t bytes[] = {count / 2 * 4, count / 2 * 4};
    const Segment whole{data, count * 4};
    HORA_WANT_OK(support::run(lane, world.allreduce(lane, tag(), segments, reduction)));
    HORA_WANT_OK(
        support::run(lane, world.reduce_scatter(lane, tag(), data, output, halves, reduction)));
    HORA_WANT_OK(support::run(lane, world.allgather(lane, tag(), data, output, bytes)));
    HORA_WANT_OK(support::run(lane, world.alltoall(lane, tag(), data, bytes, output, bytes)));
    HORA_WANT_OK(support::run(lane, world.broadcast(lane, tag(), {&whole, 1}, 1)));
    HORA_WANT_OK(support::run(lane, world.barrier(lane, tag())));
  }
  return "";
}

TEST(TcpSteady, OperationsAllocateNothingOnceTheyAreWarm) {
  support::TcpPairs pairs(2, support::kTcpStreams);
  std::barrier meet(2);
  uint64_t before = 0, after = 0;
  const auto wrong = support::run_threads(2, [&](Rank rank) -> std::string {
    const auto backend = tcp::open(pairs.dial(rank), support::tcp_options(rank));
    const Rank both[] = {0, 1};
    auto made = backend->communicator(0, both, 0);
    HORA_WANT_OK(made.status());
    Lane lane(0);
    uint64_t sequence = 0;
    std::vector<float> values(500'000, static_cast<float>(rank)), results(values.size());
    std::string wrong_here;
    for (int i = 0; i < kWarm && wrong_here.empty(); ++i)
      wrong_here = step(*made.value(), lane, sequence, values, results);
    meet.arrive_and_wait();
    if (rank == 0) before = allocations();
    meet.arrive_and_wait();
    for (int i = 0; i < kCounted && wrong_here.empty(); ++i)
      wrong_here = step(*made.value(), lane, sequence, values, results);
    meet.arrive_and_wait();
    if (rank == 0) after = allocations();
    meet.arrive_and_wait();
    return wrong_here;
  });
  EXPECT_EQ(wrong, "");
  EXPECT_EQ(after - before, 0u);
}

}  // namespace
}  // namespace hora
