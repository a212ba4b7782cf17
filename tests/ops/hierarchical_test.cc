// Goal: two backends composed give what one gives, whatever lies on which host, and end together.
// Method: the conformance suite over two local hubs, one for inside the hosts and one for across;
// and what only a composition can get wrong: operations of many chunks, and what crosses between
// hosts, counted by a backend around the one across.

#include "ops/hierarchical/hierarchical.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "ops/delayed/delayed.h"
#include "ops/hierarchical/layout.h"
#include "ops/local/local.h"
#include "tests/support/backend_fixture.h"
#include "tests/support/counting_backend.h"
#include "tests/support/data.h"

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

// Neighbors in number are on different hosts, and hosts have different numbers of ranks.
const bool kInterleaved = support::add_backend_case({
    .name = "hierarchical_interleaved",
    .prepare =
        [](int size) {
          std::vector<int> hosts;
          for (int rank = 0; rank < size; ++rank) hosts.push_back(rank % 5 == 4 ? 1 : rank % 2);
          return prepare(hosts, false);
        },
    .own_order = true,
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

/// Parts of so many floats, uneven, one of them empty.
std::vector<size_t> uneven_counts(size_t members) {
  std::vector<size_t> counts;
  for (size_t r = 0; r < members; ++r) counts.push_back(r == 1 ? 0 : 350'003 * (r + 1));
  return counts;
}

float term(size_t rank, size_t element) {
  return static_cast<float>((rank + 1) * (element % 1021));
}

std::string gather_uneven(Party& party, bool in_place) {
  const auto me = static_cast<size_t>(party.rank());
  const auto counts = uneven_counts(party.members());
  std::vector<size_t> bytes;
  for (const size_t count : counts) bytes.push_back(count * sizeof(float));
  const auto before = std::accumulate(counts.begin(), counts.begin() + party.rank(), size_t{0});
  std::vector<float> mine(counts[me]);
  for (size_t i = 0; i < mine.size(); ++i) mine[i] = term(me, i);
  std::vector<float> all(std::accumulate(counts.begin(), counts.end(), size_t{0}), -1.0f);
  if (in_place) std::copy(mine.begin(), mine.end(), all.begin() + static_cast<ptrdiff_t>(before));
  const float* const input = in_place ? all.data() + before : mine.data();
  HORA_WANT_OK(party.run(party.world().allgather(party.lane(), party.tag(),
                                                 reinterpret_cast<const std::byte*>(input),
                                                 reinterpret_cast<std::byte*>(all.data()), bytes)));
  const float* at = all.data();
  for (size_t r = 0; r < counts.size(); ++r)
    for (size_t i = 0; i < counts[r]; ++i, ++at)
      HORA_WANT(*at == term(r, i), "part " + std::to_string(r) + ", element " + std::to_string(i));
  return "";
}

std::string scatter_uneven(Party& party) {
  const auto me = static_cast<size_t>(party.rank());
  const auto counts = uneven_counts(party.members());
  const auto before = std::accumulate(counts.begin(), counts.begin() + party.rank(), size_t{0});
  std::vector<float> all(std::accumulate(counts.begin(), counts.end(), size_t{0}));
  for (size_t i = 0; i < all.size(); ++i) all[i] = term(me, i);
  std::vector<float> mine(counts[me]);
  HORA_WANT_OK(party.run(party.world().reduce_scatter(
      party.lane(), party.tag(), reinterpret_cast<const std::byte*>(all.data()),
      reinterpret_cast<std::byte*>(mine.data()), counts, {DType::kFloat32, ReduceOp::kSum})));
  const auto n = party.members();
  for (size_t i = 0; i < mine.size(); ++i)
    HORA_WANT(mine[i] == term(n * (n + 1) / 2 - 1, before + i), "element " + std::to_string(i));
  return "";
}

std::string broadcast_from_all(Party& party) {
  for (int root = 0; root < party.size(); ++root) {
    support::Bytes content(3'000'001), wanted = content;
    for (size_t i = 0; i < content.size(); ++i) {
      content[i] = static_cast<std::byte>(i * static_cast<size_t>(party.rank() + 3));
      wanted[i] = static_cast<std::byte>(i * static_cast<size_t>(root + 3));
    }
    const Segment segments[] = {{content.data(), 1'234'567},
                                {content.data() + 1'234'567, content.size() - 1'234'567}};
    HORA_WANT_OK(party.run(party.world().broadcast(party.lane(), party.tag(), segments, root)));
    HORA_WANT(content == wanted, "from " + std::to_string(root));
  }
  return "";
}

TEST(Hierarchical, PartsOfManyChunksComeToWhomTheyAreForWhateverLiesWhere) {
  for (const auto& hosts :
       {std::vector<int>{0, 0, 1, 1, 1}, {1, 0, 0, 1, 0}, {0, 0, 0, 0, 1}, {0, 1, 2, 0, 1}})
    EXPECT_EQ(support::run_case(on_hosts(hosts), 5,
                                [](Party& party) -> std::string {
                                  HORA_WANT_NOTHING(gather_uneven(party, false));
                                  HORA_WANT_NOTHING(gather_uneven(party, true));
                                  HORA_WANT_NOTHING(scatter_uneven(party));
                                  return broadcast_from_all(party);
                                }),
              "");
}

/// Bytes that cross between hosts while all ranks run `body`.
uint64_t crossing(const std::vector<int>& hosts, const std::function<std::string(Party&)>& body) {
  const auto bytes = std::make_shared<std::atomic<uint64_t>>(0);
  const auto size = static_cast<int>(hosts.size());
  const support::BackendCase counted = {
      .name = "counted",
      .prepare = [&](int) -> Opener {
        return [hosts, bytes, inside = local::make_hub(size),
                across = local::make_hub(size)](Rank rank) -> Result<std::unique_ptr<Backend>> {
          auto links = std::make_unique<support::CountingBackend>(local::open(across, rank), hosts,
                                                                  rank, bytes);
          return hierarchical::open(local::open(inside, rank), std::move(links), hosts, rank);
        };
      },
      .own_order = true};
  EXPECT_EQ(support::run_case(counted, size, body), "");
  return bytes->load();
}

TEST(Hierarchical, AByteCrossesToEachOtherHostOnceWhateverTheRanksThere) {
  const auto gather = [](Party& party) { return gather_uneven(party, true); };
  // 350,003 floats times 1, 0, 3, 4, 5, all but a host's own to each host.
  EXPECT_EQ(crossing({0, 0, 1, 1, 1}, gather), 350'003u * 4 * 13);
  EXPECT_EQ(crossing({0, 1, 2, 0, 1}, gather), 350'003u * 4 * 13 * 2);
  EXPECT_EQ(crossing({0, 0, 1, 1, 1}, scatter_uneven), 350'003u * 4 * 13);
  EXPECT_EQ(crossing({0, 1, 2, 0, 1}, scatter_uneven), 350'003u * 4 * 13 * 2);
  EXPECT_EQ(crossing({1, 0, 0, 1, 0}, broadcast_from_all), 3'000'001u * 5);
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
