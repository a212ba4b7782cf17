#include "benchmarks/job.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include <sys/resource.h>
#include <sys/wait.h>

namespace hora::benchmarks {
namespace {

constexpr std::chrono::milliseconds kPatience{60'000};

int run_threads(int size, const Body& body) {
  const std::shared_ptr<Store> store = make_memory_store();
  std::vector<std::thread> threads;
  std::atomic<int> status{0};
  for (Rank rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Rankfile self(rank, size, "", store);
      if (const int mine = body(self); mine != 0) status = mine;
    });
  for (std::thread& thread : threads) thread.join();
  return status;
}

int run_as_rank(Rank rank, int size, const std::string& address, const Body& body) {
  Rankfile self(rank, size, address, need(connect_store(address, kPatience)));
  return body(self);
}

/// Children first: the server has a thread, and a fork should not copy half of one.
int run_processes(int size, const Body& body) {
  std::string folder = std::filesystem::temp_directory_path() / "hora-benchmark-XXXXXX";
  if (!::mkdtemp(folder.data())) give_up(Status(Code::kInternal, "no temporary folder"));
  const std::string path = folder + "/store";
  for (Rank rank = 0; rank < size; ++rank) {
    const pid_t pid = ::fork();
    if (pid < 0) give_up(Status(Code::kOutOfMemory, "fork failed"));
    if (pid == 0) {
      const int status = run_as_rank(rank, size, "unix:" + path, body);
      std::fflush(nullptr);
      ::_exit(status);
    }
  }
  int worst = 0;
  {
    const auto server = need(StoreServer::start(path));
    for (int status = 0; ::wait(&status) > 0;)
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) worst = 1;
  }
  std::filesystem::remove_all(folder);
  return worst;
}

}  // namespace

Rankfile::Rankfile(Rank rank, int size, std::string address, std::shared_ptr<Store> store)
    : rank_(rank), size_(size), address_(std::move(address)), store_(std::move(store)) {}

Config Rankfile::config() const {
  Config config = need(Config::from_environment());
  config.rank = config.local_rank = rank_;
  config.size = config.local_size = size_;
  config.store = address_;
  if (config.job.empty()) config.job = "benchmark";
  return config;
}

std::vector<std::string> Rankfile::gather(std::string_view text) {
  const std::string round = "benchmark/" + std::to_string(gathered_++) + "/";
  need(store_->set(round + std::to_string(rank_), text));
  std::vector<std::string> all;
  for (Rank rank = 0; rank < size_; ++rank)
    all.push_back(need(store_->get(round + std::to_string(rank), std::chrono::minutes(10))));
  return all;
}

int run_job(int size, bool threads, const Body& body) {
  const Config launched = need(Config::from_environment());
  if (!launched.store.empty())
    return run_as_rank(launched.rank, launched.size, launched.store, body);
  return threads ? run_threads(size, body) : run_processes(size, body);
}

void give_up(const Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  std::fflush(nullptr);
  ::_exit(1);
}

double seconds_now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

double processor_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace hora::benchmarks
