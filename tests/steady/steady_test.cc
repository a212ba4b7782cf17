// Goal: once warm, the path of a gradient allocates nothing. Method: this program's operator new
// counts; ranks are threads, and all of them together must not allocate between two barriers.

#include <barrier>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "hora/engine.h"
#include "runtime/timeline.h"
#include "tests/steady/allocations.h"

namespace hora {
namespace {

constexpr int kRanks = 2, kWarm = 100, kCounted = 300;
// A container may meet its largest size late; what happens in every step is a hundred times more.
constexpr uint64_t kGrowth = 60;

struct Case {
  const char* name;
  const char* chain;
  uint16_t domain;
  bool timeline = false;
};

/// One step of training: the gradients of `requests`, some small and some cut into slices.
void step(Engine& engine, const std::vector<Request>& requests, std::vector<Handle>& handles) {
  handles.clear();
  for (const Request& request : requests) {
    const Result<Handle> handle = engine.submit(request);
    ASSERT_TRUE(handle.ok()) << handle.status().message();
    handles.push_back(handle.value());
  }
  if (requests[0].domain != 0) engine.flush(requests[0].domain);
  for (const Handle handle : handles) ASSERT_TRUE(engine.wait(handle).ok());
}

/// The writer of a timeline wakes now and then: it is warm when it has told of some steps.
bool warm_writer(const std::string& file) {
  for (int i = 0; i < 10'000; ++i) {
    if (std::filesystem::file_size(file) > 32 << 10) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

class Steady : public testing::TestWithParam<Case> {};

TEST_P(Steady, AllocatesNothingOnceItIsWarm) {
  Config config;
  config.log_level = "off";
  config.bucket_bytes = 64 << 10;
  config.window_bytes = 128 << 10;
  auto engines = Engine::start_local(kRanks, config);
  ASSERT_TRUE(engines.ok()) << engines.status().message();
  std::barrier meet(kRanks);
  uint64_t before = 0, after = 0;
  const auto rank_body = [&](int rank) {
    Engine& engine = *engines.value()[static_cast<size_t>(rank)];
    std::vector<std::vector<float>> values;
    for (const size_t count : {1, 10, 2500, 40, 60'000, 3, 2500, 2500, 9000})
      values.emplace_back(count, 1.0f);
    std::vector<Request> requests(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      Request& request = requests[i];
      request.name = "layer." + std::to_string(i) + ".weight of a long enough name";
      request.chain = GetParam().chain;
      request.domain = GetParam().domain;
      const auto count = static_cast<int64_t>(values[i].size());
      request.inputs = {{values[i].data(), {count}, DType::kFloat32, {}}};
      request.outputs = request.inputs;
    }
    std::vector<Handle> handles;
    handles.reserve(requests.size());
    const std::string path = testing::TempDir() + "/steady_timeline.json";
    if (GetParam().timeline) ASSERT_TRUE(engine.start_timeline(path).ok());
    for (int i = 0; i < kWarm; ++i) step(engine, requests, handles);
    if (GetParam().timeline) EXPECT_TRUE(warm_writer(Timeline::path_of(path, rank)));
    meet.arrive_and_wait();
    if (rank == 0) before = allocations();
    meet.arrive_and_wait();
    for (int i = 0; i < kCounted; ++i) step(engine, requests, handles);
    meet.arrive_and_wait();
    if (rank == 0) after = allocations();
    meet.arrive_and_wait();
    EXPECT_TRUE(engine.shutdown().ok());
    if (GetParam().timeline) {
      EXPECT_EQ(engine.counters().timeline_dropped, 0u);
      EXPECT_EQ(std::remove(Timeline::path_of(path, rank).c_str()), 0);
    }
  };
  std::thread other(rank_body, 1);
  rank_body(0);
  other.join();
  EXPECT_LT(after - before, kGrowth) << "in " << kCounted << " steps of 2 ranks";
}

INSTANTIATE_TEST_SUITE_P(Kinds, Steady,
                         testing::Values(Case{"plain", "none", 0}, Case{"gradients", "none", 1},
                                         Case{"half", "bf16", 1}, Case{"onebit", "onebit", 1},
                                         Case{"watched", "none", 1, true}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace hora
