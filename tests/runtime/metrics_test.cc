// Goal: the counters say exactly what was done, also in Prometheus' text. Method: values at the
// buckets' limits, and two ranks as threads that do a known amount of work.
#include "runtime/metrics.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "hora/engine.h"

namespace hora {
namespace {

TEST(Distribution, CountsAValueInTheBucketOfItsMagnitude) {
  Distribution distribution;
  for (const uint64_t value : {0, 1, 2, 3, 4, 7, 8}) distribution.add(value);
  distribution.add(UINT64_MAX >> 8);
  const Histogram histogram = distribution.snapshot();
  EXPECT_EQ(histogram.count, 8u);
  EXPECT_EQ(histogram.sum, 25 + (UINT64_MAX >> 8));
  EXPECT_EQ(histogram.buckets[0], 1u);
  EXPECT_EQ(histogram.buckets[1], 1u);
  EXPECT_EQ(histogram.buckets[2], 2u);
  EXPECT_EQ(histogram.buckets[3], 2u);
  EXPECT_EQ(histogram.buckets[4], 1u);
  EXPECT_EQ(histogram.buckets.back(), 1u);
}

TEST(Metrics, CountWhatTwoRanksDid) {
  constexpr uint64_t kSteps = 25;
  auto engines = Engine::start_local(2, Config());
  ASSERT_TRUE(engines.ok());
  std::vector<std::thread> threads;
  for (auto& engine : engines.value())
    threads.emplace_back([&] {
      std::vector<float> values(256, 1);
      Request request;
      request.name = "x";
      request.inputs = request.outputs = {{values.data(), {256}, DType::kFloat32, {}}};
      for (uint64_t i = 0; i < kSteps; ++i) EXPECT_TRUE(engine->run(request).ok());
      EXPECT_TRUE(engine->shutdown().ok());
    });
  for (auto& thread : threads) thread.join();
  const Counters counters = engines.value()[1]->counters();
  EXPECT_EQ(counters.requests, kSteps);
  EXPECT_EQ(counters.errors, 0u);
  EXPECT_EQ(counters.operations[static_cast<size_t>(Op::kAllreduce)], kSteps);
  EXPECT_EQ(counters.operations[static_cast<size_t>(Op::kBroadcast)], 0u);
  EXPECT_EQ(counters.bytes, kSteps * 1024);
  EXPECT_EQ(counters.wire_bytes, kSteps * 1024);
  EXPECT_EQ(counters.bucket_bytes.count, kSteps);
  EXPECT_EQ(counters.bucket_bytes.buckets[11], kSteps);
  EXPECT_EQ(counters.bucket_tensors.buckets[1], kSteps);
  for (const Histogram& phase : counters.phases) EXPECT_EQ(phase.count, kSteps);
  uint64_t parts = 0;
  for (size_t i = 0; i < 4; ++i) parts += counters.phases[i].sum;
  EXPECT_LE(parts, counters.phases[static_cast<size_t>(Phase::kTotal)].sum);
}

TEST(Metrics, ArePrometheusText) {
  Metrics metrics;
  metrics.requests.add(3);
  metrics.operations[static_cast<size_t>(Op::kAllreduce)].add(3);
  metrics.of(Phase::kMoving).add(1000);
  metrics.bucket_bytes.add(4096);
  const std::string text = metrics_text(metrics.snapshot(), 5);
  for (const char* line : {
           "# TYPE hora_requests_total counter\nhora_requests_total{rank=\"5\"} 3\n",
           "hora_operations_total{op=\"allreduce\",rank=\"5\"} 3\n",
           "# TYPE hora_phase_seconds histogram\n",
           "hora_phase_seconds_bucket{phase=\"moving\",le=\"5.11e-07\",rank=\"5\"} 0\n",
           "hora_phase_seconds_bucket{phase=\"moving\",le=\"1.023e-06\",rank=\"5\"} 1\n",
           "hora_phase_seconds_bucket{phase=\"moving\",le=\"+Inf\",rank=\"5\"} 1\n",
           "hora_phase_seconds_sum{phase=\"moving\",rank=\"5\"} 1e-06\n",
           "hora_phase_seconds_count{phase=\"moving\",rank=\"5\"} 1\n",
           "hora_bucket_bytes_bucket{le=\"4095\",rank=\"5\"} 0\n",
           "hora_bucket_bytes_bucket{le=\"8191\",rank=\"5\"} 1\n",
       })
    EXPECT_NE(text.find(line), std::string::npos) << line << "is not in\n" << text;
}

}  // namespace
}  // namespace hora
