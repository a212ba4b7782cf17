// oneCCL's allreduce at the sizes of `collectives`, in the same JSON. Forks its ranks.
//   ccl_allreduce ranks least most factor report.json
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <oneapi/ccl.hpp>
#include <sys/mman.h>
#include <sys/wait.h>

namespace {

constexpr int kMostRanks = 64;

/// What the ranks share: where to meet, and each rank's last number.
struct Shared {
  std::atomic<bool> ready{false};
  ccl::kvs::address_type address{};
  std::atomic<int> arrived{0};
  double numbers[kMostRanks] = {};

  void meet(int size) {
    const int turn = arrived.fetch_add(1) / size;
    while (arrived.load() < (turn + 1) * size) usleep(50);
  }
  double slowest(int rank, int size, double number) {
    numbers[rank] = number;
    meet(size);
    const double worst = *std::max_element(numbers, numbers + size);
    meet(size);
    return worst;
  }
};

double now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(since).count();
}

double quantile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)];
}

void run_rank(Shared& shared, int rank, int size, char** argv) {
  setenv("CCL_LOCAL_RANK", std::to_string(rank).c_str(), 1);
  setenv("CCL_LOCAL_SIZE", std::to_string(size).c_str(), 1);
  ccl::init();
  ccl::shared_ptr_class<ccl::kvs> store;
  if (rank == 0) {
    store = ccl::create_main_kvs();
    shared.address = store->get_address();
    shared.ready = true;
  } else {
    while (!shared.ready) usleep(1000);
    store = ccl::create_kvs(shared.address);
  }
  const auto group = ccl::create_communicator(size, rank, store);
  const double least = std::atof(argv[2]), most = std::atof(argv[3]), factor = std::atof(argv[4]);
  std::FILE* const file = rank == 0 ? std::fopen(argv[5], "w") : nullptr;
  std::vector<float> values(static_cast<size_t>(most) / sizeof(float) + 1);
  if (file) std::fprintf(file, "{\"ranks\": %d, \"rows\": [", size);
  const char* separator = "";
  for (double bytes = least; bytes <= most; bytes *= factor) {
    const auto count = static_cast<size_t>(bytes / sizeof(float));
    const int iterations = static_cast<int>(std::clamp(268435456.0 / bytes, 20.0, 500.0));
    std::vector<double> samples;
    double begin = now();
    for (int i = -5; i < iterations; ++i) {
      if (i == 0) begin = now();
      ccl::allreduce(values.data(), values.data(), count, ccl::datatype::float32,
                     ccl::reduction::sum, group)
          .wait();
      if (i < 0) continue;
      const double end = now();
      samples.push_back(end - begin);
      begin = end;
    }
    const double median = shared.slowest(rank, size, quantile(samples, 0.5));
    const double p10 = shared.slowest(rank, size, quantile(samples, 0.1));
    if (file)
      std::fprintf(file, "%s\n{\"size\": %.0f, \"time_us\": %.3f, \"p10_us\": %.3f}", separator,
                   bytes, median, p10);
    separator = ",";
  }
  if (file) {
    std::fprintf(file, "\n]}\n");
    std::fclose(file);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int size = argc == 6 ? std::atoi(argv[1]) : 0;
  if (size < 1 || size > kMostRanks) {
    std::fprintf(stderr, "usage: %s ranks least most factor report.json\n", argv[0]);
    return 2;
  }
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  auto& shared = *new (memory) Shared;
  setenv("CCL_PROCESS_LAUNCHER", "none", 0);
  for (int rank = 0; rank < size; ++rank) {
    if (fork() != 0) continue;
    run_rank(shared, rank, size, argv);
    std::_Exit(0);
  }
  int worst = 0, status = 0;
  while (wait(&status) > 0) worst = std::max(worst, status);
  return worst == 0 ? 0 : 1;
}
