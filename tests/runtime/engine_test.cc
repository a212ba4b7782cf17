// Goal: the engine's contract as a caller meets it. Method: two to five ranks as threads of this
// process over the local backend, each a thread with its own engine.
#include "hora/engine.h"

#include <xmmintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <latch>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "compressors/element.h"
namespace hora {
namespace {

Config quick() {
  Config config;
  config.failure_timeout = 2;
  config.bucket_bytes = 64 << 10;
  config.window_bytes = 128 << 10;
  config.log_level = "off";
  return config;
}

using Body = std::function<void(Engine&, int rank)>;

/// Runs body on `size` ranks, each with its own thread and engine.
void on_ranks(int size, const Body& body, const Config& config = quick()) {
  auto started = Engine::start_local(size, config);
  ASSERT_TRUE(started.ok()) << started.status().message();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Engine& engine = *started.value()[static_cast<size_t>(rank)];
      body(engine, rank);
      EXPECT_TRUE(engine.shutdown().ok());
    });
  for (auto& thread : threads) thread.join();
}

Request allreduce(const std::string& name, std::vector<float>& values,
                  ReduceOp reduce = ReduceOp::kSum) {
  Request request;
  request.name = name;
  request.reduce = reduce;
  request.inputs = {{values.data(), {static_cast<int64_t>(values.size())}, DType::kFloat32, {}}};
  request.outputs = request.inputs;
  return request;
}

TEST(Engine, ReducesWhatAllRanksSubmit) {
  on_ranks(3, [](Engine& engine, int rank) {
    std::vector<float> values(1000, static_cast<float>(rank + 1));
    EXPECT_TRUE(engine.run(allreduce("x", values)).ok());
    EXPECT_EQ(values, std::vector<float>(1000, 6));
  });
}

TEST(Engine, AnOperationEndsWithItsSlowestPieceWhateverItsLane) {
  Config config = quick();
  config.bucket_bytes = 1 << 20;
  config.express_bytes = 0;
  config.window_bytes = 16 << 20;
  on_ranks(
      2,
      [](Engine& engine, int) {
        constexpr size_t kCount = 3 * (1 << 18) + 1;  // the last piece is one element
        for (int step = 0; step < 20; ++step) {
          std::vector<float> values(kCount, 1);
          ASSERT_TRUE(engine.run(allreduce("x", values)).ok());
          ASSERT_EQ(std::count(values.begin(), values.end(), 2.0F), kCount) << "step " << step;
        }
      },
      config);
}

TEST(Engine, PairsRequestsByNameWhateverTheirOrder) {
  on_ranks(4, [](Engine& engine, int rank) {
    constexpr int kNames = 100;
    std::mt19937 random(static_cast<unsigned>(rank));
    for (int step = 0; step < 20; ++step) {
      std::vector<int> order(kNames);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      std::vector<std::vector<float>> values;
      for (int i = 0; i < kNames; ++i)
        values.emplace_back(static_cast<size_t>(i * 37 % 500), static_cast<float>(i + rank));
      std::vector<Handle> handles(kNames);
      for (const int i : order) {
        auto handle =
            engine.submit(allreduce("t" + std::to_string(i), values[static_cast<size_t>(i)]));
        ASSERT_TRUE(handle.ok()) << handle.status().message();
        handles[static_cast<size_t>(i)] = handle.value();
      }
      std::shuffle(order.begin(), order.end(), random);
      for (const int i : order) {
        const Status status = engine.wait(handles[static_cast<size_t>(i)]);
        ASSERT_TRUE(status.ok()) << status.message();
        for (const float value : values[static_cast<size_t>(i)])
          ASSERT_EQ(value, static_cast<float>(4 * i + 6));
      }
    }
  });
}

TEST(Engine, SplitsALargeTensorAndStillGivesTheWholeSum) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<float> values(300'001);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(i % 1000) + static_cast<float>(rank);
    ASSERT_TRUE(engine.run(allreduce("large", values)).ok());
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(values[i], 2 * static_cast<float>(i % 1000) + 1);
  });
}

TEST(Engine, GradientsOfOneOptimizerTravelInStableBucketsAndAWaitPushes) {
  on_ranks(3, [](Engine& engine, int rank) {
    for (int step = 0; step < 12; ++step) {
      std::vector<std::vector<float>> grads(40, std::vector<float>(100, static_cast<float>(rank)));
      std::vector<Handle> handles;
      for (size_t i = 0; i < grads.size(); ++i) {
        if (step == 7 && i == 11) continue;  // an unused parameter
        Request request = allreduce("g" + std::to_string(i), grads[i], ReduceOp::kAverage);
        request.domain = 1;
        handles.push_back(engine.submit(request).value());
      }
      if (step % 2) engine.flush(1);
      for (const Handle handle : handles) ASSERT_TRUE(engine.wait(handle).ok());
      for (size_t i = 0; i < grads.size(); ++i)
        if (step != 7 || i != 11) {
          ASSERT_EQ(grads[i], std::vector<float>(100, 1.0f));
        }
    }
  });
}

TEST(Engine, AMismatchIsTheSameErrorOnEveryRankAndTheJobGoesOn) {
  on_ranks(3, [](Engine& engine, int rank) {
    std::vector<float> values(rank == 1 ? 5 : 4, 1);
    const Status status = engine.run(allreduce("x", values));
    EXPECT_EQ(status.code(), Code::kMismatch);
    EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
    std::vector<float> again(4, 1);
    EXPECT_TRUE(engine.run(allreduce("x", again)).ok());
    EXPECT_EQ(again, std::vector<float>(4, 3));
  });
}

TEST(Engine, RefusesANameInFlightWithoutQueueing) {
  std::latch refused(1);
  on_ranks(2, [&](Engine& engine, int rank) {
    std::vector<float> a(4, 1), b(4, 1);
    if (rank == 1) refused.wait();  // so that rank 0's first is in flight until then
    const auto first = engine.submit(allreduce("x", a));
    ASSERT_TRUE(first.ok());
    if (rank == 0) {
      EXPECT_EQ(engine.submit(allreduce("x", b)).status().code(), Code::kInvalidArgument);
      refused.count_down();
    }
    EXPECT_TRUE(engine.wait(first.value()).ok());
    EXPECT_EQ(a, std::vector<float>(4, 2));
  });
}

TEST(Engine, UnnamedOperationsTakeTurnsOnCyclicNames) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<std::vector<float>> values(700, std::vector<float>(3, static_cast<float>(rank)));
    std::vector<Handle> handles;
    for (auto& each : values) handles.push_back(engine.submit(allreduce("", each)).value());
    for (const Handle handle : handles) ASSERT_TRUE(engine.wait(handle).ok());
    for (auto& each : values) ASSERT_EQ(each, std::vector<float>(3, 1));
  });
}

TEST(Engine, GathersRaggedRowsIntoMemoryItAllocates) {
  on_ranks(3, [](Engine& engine, int rank) {
    std::vector<int64_t> mine(static_cast<size_t>(rank) * 2, rank);
    Request request;
    request.name = "rows";
    request.op = Op::kAllgather;
    request.inputs = {{mine.data(), {rank, 2}, DType::kInt64, {}}};
    Outcome outcome;
    const Status status = engine.run(request, &outcome);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(outcome.outputs.size(), 1u);
    EXPECT_EQ(outcome.outputs[0].shape, (Shape{3, 2}));
    const auto* rows = static_cast<const int64_t*>(outcome.outputs[0].data.get());
    EXPECT_EQ(std::vector<int64_t>(rows, rows + 6), (std::vector<int64_t>{1, 1, 2, 2, 2, 2}));
  });
}

TEST(Engine, ExchangesUnevenPartsAndTellsWhatItReceived) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<int32_t> mine =
        rank == 0 ? std::vector<int32_t>{1, 2, 3} : std::vector<int32_t>{7, 8};
    Request request;
    request.name = "a2a";
    request.op = Op::kAlltoall;
    request.inputs = {{mine.data(), {static_cast<int64_t>(mine.size())}, DType::kInt32, {}}};
    request.splits = rank == 0 ? std::vector<int64_t>{1, 2} : std::vector<int64_t>{2, 0};
    Outcome outcome;
    ASSERT_TRUE(engine.run(request, &outcome).ok());
    const auto* got = static_cast<const int32_t*>(outcome.outputs[0].data.get());
    const std::vector<int32_t> values(got, got + outcome.outputs[0].shape[0]);
    EXPECT_EQ(values, rank == 0 ? (std::vector<int32_t>{1, 7, 8}) : (std::vector<int32_t>{2, 3}));
    EXPECT_EQ(outcome.received_splits,
              rank == 0 ? (std::vector<int64_t>{1, 2}) : (std::vector<int64_t>{2, 0}));
  });
}

TEST(Engine, ScattersTheSumWithOneRowMoreForTheFirst) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<float> a{1, 2, 3, 4, 5, 6}, b{10, 20};
    Request request;
    request.name = "rs";
    request.op = Op::kReduceScatter;
    request.reduce = ReduceOp::kSum;
    request.inputs = {{a.data(), {3, 2}, DType::kFloat32, {}},
                      {b.data(), {2}, DType::kFloat32, {}}};
    Outcome outcome;
    ASSERT_TRUE(engine.run(request, &outcome).ok());
    const auto* first = static_cast<const float*>(outcome.outputs[0].data.get());
    const auto* second = static_cast<const float*>(outcome.outputs[1].data.get());
    const std::vector<float> expected =
        rank == 0 ? std::vector<float>{2, 4, 6, 8} : std::vector<float>{10, 12};
    EXPECT_EQ(std::vector<float>(first, first + expected.size()), expected);
    EXPECT_EQ(*second, rank == 0 ? 20 : 40);
  });
}

TEST(Engine, BroadcastsFromAnyRankIntoOtherMemory) {
  on_ranks(3, [](Engine& engine, int rank) {
    const double mine = rank * 1.5;
    double result = -1;
    Request request;
    request.op = Op::kBroadcast;
    request.root = 2;
    request.inputs = {{const_cast<double*>(&mine), {}, DType::kFloat64, {}}};
    request.outputs = {{&result, {}, DType::kFloat64, {}}};
    ASSERT_TRUE(engine.run(request).ok());
    EXPECT_EQ(result, 3.0);
  });
}

TEST(Engine, ProcessSetsOverlapAndRunOnTheirMembersOnly) {
  on_ranks(3, [](Engine& engine, int rank) {
    const auto add = [&](std::vector<Rank> members) {
      Request request;
      request.op = Op::kAddSet;
      request.members = std::move(members);
      Outcome outcome;
      EXPECT_TRUE(engine.run(request, &outcome).ok());
      return static_cast<SetId>(outcome.value);
    };
    const SetId low = add({0, 1}), high = add({1, 2});
    EXPECT_NE(low, high);
    float value = 1;
    Request outside;
    outside.op = Op::kBroadcast;
    outside.set = rank == 0 ? low : high;
    outside.root = rank == 0 ? 2 : 0;
    outside.inputs = outside.outputs = {{&value, {}, DType::kFloat32, {}}};
    const Status refused = engine.run(outside);
    EXPECT_EQ(refused.code(), Code::kInvalidArgument);
    EXPECT_NE(refused.message().find("not in process set"), std::string::npos) << refused.message();
    for (int i = 0; i < 50; ++i) {
      std::vector<float> a(10, 1), b(20'000, 1);
      std::vector<Handle> handles;
      Request in_low = allreduce("a", a), in_high = allreduce("a", b);
      in_low.set = low;
      in_high.set = high;
      if (rank <= 1) handles.push_back(engine.submit(in_low).value());
      if (rank >= 1) handles.push_back(engine.submit(in_high).value());
      for (const Handle handle : handles) {
        const Status status = engine.wait(handle);
        ASSERT_TRUE(status.ok()) << status.message();
      }
      if (rank <= 1) {
        ASSERT_EQ(a, std::vector<float>(10, 2));
      }
      if (rank >= 1) {
        ASSERT_EQ(b, std::vector<float>(20'000, 2));
      }
    }
    std::vector<float> other(3, 1);
    Request foreign = allreduce("b", other);
    foreign.set = low;
    if (rank == 2) {
      EXPECT_EQ(engine.run(foreign).code(), Code::kInvalidArgument);
    }
  });
}

TEST(Engine, AJoinedRankContributesZerosAndEveryoneLearnsWhoWasLast) {
  on_ranks(3, [](Engine& engine, int rank) {
    for (int step = 0; step <= rank; ++step) {
      std::vector<float> values(100, 1);
      ASSERT_TRUE(engine.run(allreduce("x", values)).ok());
      ASSERT_EQ(values, std::vector<float>(100, static_cast<float>(3 - step)));
    }
    Request join;
    join.op = Op::kJoin;
    Outcome outcome;
    ASSERT_TRUE(engine.run(join, &outcome).ok());
    EXPECT_EQ(outcome.value, 2);
    std::vector<float> after(5, 1);
    ASSERT_TRUE(engine.run(allreduce("after", after)).ok());
    EXPECT_EQ(after, std::vector<float>(5, 3));
  });
}

TEST(Engine, AGroupIsAllOrNothing) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<float> a(3, 1), b(70'000, 2);
    Request group;
    group.name = "group";
    group.reduce = ReduceOp::kSum;
    group.inputs = {{a.data(), {3}, DType::kFloat32, {}},
                    {b.data(), {70'000}, DType::kFloat32, {}}};
    group.outputs = group.inputs;
    ASSERT_TRUE(engine.run(group).ok());
    EXPECT_EQ(a, std::vector<float>(3, 2));
    EXPECT_EQ(b, std::vector<float>(70'000, 4));
    if (rank == 1) group.inputs.pop_back(), group.outputs.pop_back();
    EXPECT_EQ(engine.run(group).code(), Code::kMismatch);
  });
}

TEST(Engine, ARankThatLeavesEarlyIsNamedInsteadOfHanging) {
  auto started = Engine::start_local(2, quick());
  ASSERT_TRUE(started.ok());
  auto& engines = started.value();
  std::thread leaver([&] { (void)engines[1]->shutdown(); });
  std::vector<float> values(4, 1);
  const Status status = engines[0]->run(allreduce("x", values));
  EXPECT_EQ(status.code(), Code::kPeerLeft) << status.message();
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
  EXPECT_TRUE(engines[0]->shutdown().ok());
  leaver.join();
}

TEST(Engine, AdasumWeighsEveryTensorByItselfAlsoWhereARankHasJoined) {
  on_ranks(3, [](Engine& engine, int rank) {
    // Parallel ones are averaged, orthogonal ones added; zeros, as of a rank that has joined,
    // change nothing.
    const auto check = [&](const std::string& name, bool all_here) {
      std::vector<float> same(600, 2), none, other(3, 0);
      other[static_cast<size_t>(rank)] = 1;
      Request request = allreduce(name, same, ReduceOp::kAdasum);
      for (std::vector<float>* more : {&none, &other})
        request.inputs.push_back(allreduce(name, *more).inputs[0]);
      request.outputs = request.inputs;
      EXPECT_TRUE(engine.run(request).ok());
      EXPECT_EQ(same, std::vector<float>(600, 2));
      EXPECT_EQ(other, (std::vector<float>{1, 1, all_here ? 1.0f : 0.0f}));
    };
    check("all", true);
    Request join;
    join.op = Op::kJoin;
    if (rank < 2) check("two", false);
    EXPECT_TRUE(engine.run(join).ok());
  });
}

TEST(Engine, RefusesWhatCannotWorkBeforeAnythingIsQueued) {
  on_ranks(1, [](Engine& engine, int) {
    std::vector<float> values(4, 1);
    Request request = allreduce("x", values);
    request.reduce = ReduceOp::kAdasum;
    request.op = Op::kReduceScatter;
    EXPECT_EQ(engine.submit(request).status().code(), Code::kInvalidArgument);
    request = allreduce("x", values);
    request.chain = "onebitt";
    const Status status = engine.submit(request).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("onebit"), std::string::npos) << status.message();
    request = allreduce("x", values);
    request.inputs[0].data = nullptr;
    EXPECT_EQ(engine.submit(request).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(engine.wait(12345).code(), Code::kInvalidArgument);
    EXPECT_TRUE(engine.run(allreduce("x", values)).ok());
  });
}

TEST(Engine, AStallNamesTheLateRankAndWhatItDoes) {
  Config config = quick();
  config.stall_warning = 0.05;
  std::atomic<bool> told{false};
  on_ranks(
      2,
      [&](Engine& engine, int rank) {
        std::vector<float> values(4, 1);
        if (rank == 1) {
          engine.on_whereabouts([] { return std::string("busy in evaluate()"); });
          EXPECT_TRUE(engine.run(allreduce("before", values)).ok());
          while (!told) std::this_thread::yield();
        } else {
          engine.on_stall([&](const Stall& stall) {
            EXPECT_EQ(stall.name, "x");
            EXPECT_EQ(stall.ranks, std::vector<Rank>{1});
            ASSERT_EQ(stall.details.size(), 1u);
            EXPECT_NE(stall.details[0].find("busy in evaluate()"), std::string::npos);
            EXPECT_NE(stall.details[0].find("before"), std::string::npos);
            told = true;
          });
          EXPECT_TRUE(engine.run(allreduce("before", values)).ok());
        }
        EXPECT_TRUE(engine.run(allreduce("x", values)).ok());
      },
      config);
  EXPECT_TRUE(told);
}

TEST(Engine, WaitForGivesTheHandleBackWhenTimeIsUp) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<float> values(4, 1);
    if (rank == 1) {
      Request barrier;
      barrier.op = Op::kBarrier;
      EXPECT_TRUE(engine.run(barrier).ok());
      EXPECT_TRUE(engine.run(allreduce("x", values)).ok());
      return;
    }
    const Handle handle = engine.submit(allreduce("x", values)).value();
    EXPECT_EQ(engine.wait_for(handle, std::chrono::milliseconds(20)).code(), Code::kTimeout);
    EXPECT_FALSE(engine.poll(handle));
    Request barrier;
    barrier.op = Op::kBarrier;
    EXPECT_TRUE(engine.run(barrier).ok());
    EXPECT_TRUE(engine.wait(handle).ok());
    EXPECT_EQ(engine.wait(handle).code(), Code::kInvalidArgument);
  });
}

TEST(Engine, ManyThreadsOfOneRankMaySubmitAndWait) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 200; ++i) {
          std::vector<float> values(10, static_cast<float>(rank + t));
          ASSERT_TRUE(engine.run(allreduce("t" + std::to_string(t), values)).ok());
          ASSERT_EQ(values, std::vector<float>(10, static_cast<float>(2 * t + 1)));
        }
      });
    for (auto& thread : threads) thread.join();
  });
}

TEST(Engine, CompressedGradientsStayEqualOnAllRanks) {
  for (const std::string chain : {"fp16", "bf16", "onebit", "drop"}) {
    std::vector<std::vector<float>> results(3);
    on_ranks(3, [&](Engine& engine, int rank) {
      std::vector<float> values(20'000);
      for (int step = 0; step < 3; ++step) {
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = static_cast<float>((i * 7 + static_cast<size_t>(rank) * 13) % 101) - 50;
        Request request = allreduce("g", values, ReduceOp::kAverage);
        request.chain = chain;
        const Status status = engine.run(request);
        ASSERT_TRUE(status.ok()) << chain << ": " << status.message();
      }
      results[static_cast<size_t>(rank)] = values;
    });
    EXPECT_EQ(results[0], results[1]) << chain;
    EXPECT_EQ(results[0], results[2]) << chain;
  }
}

TEST(Engine, LosslessSumsAreThoseOfFloatsInRankOrderAndTheBytesSentAreCounted) {
  // Sums of the eight nibbles of random bits, close to normal numbers.
  const auto normal = [](int rank, uint32_t i) {
    int sum = -60;
    for (uint32_t bits = random_bits({7, static_cast<uint32_t>(rank)}, i); bits != 0; bits >>= 4)
      sum += static_cast<int>(bits & 15);
    return 1e-3f * (static_cast<float>(sum) + unit_interval(random_bits({8, 1}, i)));
  };
  constexpr size_t kCount = 300'000;
  on_ranks(3, [&](Engine& engine, int rank) {
    std::vector<float> values(kCount);
    for (uint32_t i = 0; i < kCount; ++i) values[i] = normal(rank, i);
    Request request = allreduce("g", values);
    request.chain = "lossless";
    ASSERT_TRUE(engine.run(request).ok());
    for (uint32_t i = 0; i < kCount; ++i) {
      float sum = 0;
      for (int r = 0; r < 3; ++r) sum += normal(r, i);
      ASSERT_EQ(values[i], sum) << i;
    }
    const Counters counters = engine.counters();
    const double share = static_cast<double>(counters.compressed_wire_bytes) /
                         static_cast<double>(counters.compressed_bytes);
    RecordProperty("share of rank " + std::to_string(rank), std::to_string(share));
    EXPECT_LT(share, 0.9);
    EXPECT_GT(share, 0.7);
  });
}

TEST(Engine, ComputesWithDenormalsWhateverTheCallersThreadHasSet) {
  on_ranks(2, [](Engine& engine, int) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero
    std::vector<float> values(100, 0);
    const uint32_t denormal = 5;
    for (float& value : values) std::memcpy(&value, &denormal, sizeof(value));
    ASSERT_TRUE(engine.run(allreduce("x", values)).ok());
    EXPECT_EQ(_mm_getcsr() & 0x8040, 0x8040u);
    _mm_setcsr(before);
    for (const float value : values) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      ASSERT_EQ(bits, 10u);
    }
  });
}

TEST(Engine, RanksWithDifferentChainsAreToldSo) {
  on_ranks(2, [](Engine& engine, int rank) {
    std::vector<float> values(1000, 1);
    Request request = allreduce("g", values);
    request.chain = rank == 0 ? "onebit" : "none";
    const Status status = engine.run(request);
    EXPECT_EQ(status.code(), Code::kMismatch);
    EXPECT_NE(status.message().find("compression"), std::string::npos) << status.message();
  });
}

}  // namespace
}  // namespace hora
