// Goal: two backends composed give what one gives, whatever lies on which host, and end together.
// Method: the conformance suite over two local hubs, one for inside the hosts and one for across;
// and what only a composition can get wrong.

#include "ops/hierarchical/hierarchical.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "ops/delayed/delayed.h"
#include "ops/hierarchical/layout.h"
#include "ops/local/local.h"
#include "tests/support/backend_fixture.h"

namespace hora {
namespace {

using hierarchical::Layout;
using support::Opener;
using support::Party;

/// Ranks on hosts of `each`; the last host may have fewer.
std::vector<int> hosts_of(int size, int each) {
  std::vector<int> hosts;
  for (int rank = 0; rank < size; ++rank) hosts.push_back(rank / each);
  return hosts;
}

Opener prepare(const std::vector<int>& hosts, bool late) {
  const auto size = static_cast<int>(hosts.size());
  return [hosts, late, inside = local::make_hub(size),
          across = local::make_hub(size)](Rank rank) -> Result<std::unique_ptr<Backend>> {
    auto links = local::open(across, rank);
    if (late) links = delayed::wrap(std::move(links), 0xACE + static_cast<uint64_t>(rank));
    return hierarchical::open(local::open(inside, rank), std::move(links), hosts, rank);
  };
}

const bool kPairs = support::add_backend_case({
    .name = "hierarchical_pairs",
    .prepare = [](int size) { return prepare(hosts_of(size, 2), false); },
    .own_order = true,
});
const bool kLate = support::add_backend_case({
    .name = "hierarchical_late",
    .prepare = [](int size) { return prepare(hosts_of(size, 3), true); },
    .own_order = true,
    .slowness = 10,
});

support::BackendCase on_hosts(const std::vector<int>& hosts) {
  return {.name = "on_hosts",
          .prepare = [hosts](int) { return prepare(hosts, false); },
          .own_order = true};
}

TEST(HierarchicalLayout, CountsHostsInTheOrderOfTheirFirstMember) {
  const std::vector<int> hosts = {4, 4, 1, 4, 1, 9};
  const std::vector<Rank> set = {1, 2, 3, 4};
  const Layout layout = Layout::of(set, hosts, 3);
  EXPECT_EQ(layout.me, 2);
  EXPECT_EQ(layout.hosts, 2u);
  EXPECT_EQ(layout.columns, 2u);
  EXPECT_EQ(layout.local, (std::vector<Rank>{1, 3}));
  EXPECT_EQ(layout.local_index, 1u);
  EXPECT_EQ(layout.column, (std::vector<Rank>{3, 4}));
  EXPECT_EQ(layout.host_of, (std::vector<size_t>{0, 1, 0, 1}));
  EXPECT_EQ(layout.local_of, (std::vector<size_t>{0, 0, 1, 1}));
}

TEST(HierarchicalLayout, HasAsManyColumnsAsTheSmallestHostHasMembers) {
  const std::vector<int> hosts = {0, 0, 0, 1};
  const std::vector<Rank> all = {0, 1, 2, 3};
  EXPECT_EQ(Layout::of(all, hosts, 0).columns, 1u);
  EXPECT_EQ(Layout::of(all, hosts, 0).column, (std::vector<Rank>{0, 3}));
  EXPECT_TRUE(Layout::of(all, hosts, 2).column.empty());
  EXPECT_EQ(Layout::of(std::vector<Rank>{0, 1}, hosts, 3).me, -1);
}

/// Every rank adds its number plus the element's; small integers, so any order gives these bits.
std::string sum_of(Party& party, size_t count, size_t cut) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(i % 1000) + static_cast<float>(party.rank());
  auto* const data = reinterpret_cast<std::byte*>(values.data());
  const Segment segments[] = {{data, cut}, {data + cut * sizeof(float), count - cut}};
  HORA_WANT_OK(party.run(party.world().allreduce(party.lane(), party.tag(), segments,
                                                 {DType::kFloat32, ReduceOp::kAverage, 1, 2})));
  const auto n = static_cast<float>(party.size());
  for (size_t i = 0; i < count; ++i) {
    const float wanted = 2 * (static_cast<float>(i % 1000) * n + n * (n - 1) / 2) / n;
    HORA_WANT(values[i] == wanted, "element " + std::to_string(i) + " is " +
                                       std::to_string(values[i]) + ", not " +
                                       std::to_string(wanted));
  }
  return "";
}

TEST(Hierarchical, ManyChunksCrossWhileOthersAreScatteredAndGathered) {
  for (const auto& hosts : {std::vector<int>{0, 0, 1, 1}, {0, 1, 0, 1}, {0, 0, 0, 1}}) {
    const auto one = on_hosts(hosts);
    EXPECT_EQ(support::run_case(one, 4,
                                [](Party& party) -> std::string {
                                  for (const size_t count : {5'000'003, 262'144, 262'145, 9})
                                    HORA_WANT_NOTHING(sum_of(party, count, count / 3));
                                  return "";
                                }),
              "");
  }
}

TEST(Hierarchical, SetsWithinAHostAndOfOnePerHostWorkBesideTheWorld) {
  EXPECT_EQ(
      support::run_case(
          on_hosts({0, 0, 1, 1}), 4,
          [](Party& party) -> std::string {
            const Rank me = party.rank();
            const std::vector<Rank> mates =
                me < 2 ? std::vector<Rank>{0, 1} : std::vector<Rank>{2, 3};
            const std::vector<Rank> peers =
                me % 2 == 0 ? std::vector<Rank>{0, 2} : std::vector<Rank>{1, 3};
            auto host = party.backend().communicator(me < 2 ? 1u : 2u, mates, 0);
            HORA_WANT_OK(host.status());
            auto column = party.backend().communicator(me % 2 == 0 ? 3u : 4u, peers, 0);
            HORA_WANT_OK(column.status());
            for (int round = 0; round < 20; ++round) {
              for (const auto& [over, wanted] : {std::pair{host.value().get(), me < 2 ? 1 : 5},
                                                 {&party.world(), 6},
                                                 {column.value().get(), me % 2 == 0 ? 2 : 4}}) {
                int32_t value = me;
                const Segment segment{reinterpret_cast<std::byte*>(&value), 1};
                HORA_WANT_OK(party.run(over->allreduce(party.lane(), party.tag(), {&segment, 1},
                                                       {DType::kInt32, ReduceOp::kSum})));
                HORA_WANT(value == wanted, "got " + std::to_string(value));
              }
            }
            return "";
          }),
      "");
}

TEST(Hierarchical, AnAbortEndsBothLinks) {
  support::SharedWords words(1);
  EXPECT_EQ(support::run_case(
                on_hosts({0, 0, 1, 1}), 4,
                [&](Party& party) -> std::string {
                  if (party.rank() == 3) {  // never comes, and leaves when the others have given up
                    while (words[0].load() < 3) std::this_thread::yield();
                    return "";
                  }
                  std::vector<float> values(1 << 20, 1.0f);
                  const Segment segment{reinterpret_cast<std::byte*>(values.data()), values.size()};
                  party.lane().start(party.world().allreduce(
                      party.lane(), party.tag(), {&segment, 1}, {DType::kFloat32, ReduceOp::kSum}));
                  for (int i = 0; i < 1000; ++i) party.lane().progress();
                  HORA_WANT(!party.lane().idle(), "an allreduce without rank 3 has ended");
                  party.lane().abort(Status(Code::kPeerLost, "lost rank 3"));
                  party.world().abort();
                  while (!party.lane().idle()) party.lane().progress();
                  HORA_WANT(party.lane().outcome().message() == "lost rank 3", "another cause");
                  words[0].fetch_add(1);
                  return "";
                }),
            "");
}

}  // namespace
}  // namespace hora
