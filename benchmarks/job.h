#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hora/config.h"
#include "hora/request.h"
#include "hora/status.h"
#include "runtime/store.h"

namespace hora::benchmarks {

/// What one rank of a benchmark knows.
class Rankfile {
 public:
  Rankfile(Rank rank, int size, std::string address, std::shared_ptr<Store> store);

  Rank rank() const { return rank_; }
  int size() const { return size_; }
  Store& store() { return *store_; }

  /// Defaults plus the environment, as this rank of this job.
  Config config() const;

  /// Every rank's text, by rank, on all ranks. Collective.
  std::vector<std::string> gather(std::string_view text);
  void meet() { (void)gather("."); }

 private:
  Rank rank_;
  int size_;
  std::string address_;
  std::shared_ptr<Store> store_;
  uint64_t gathered_ = 0;
};

using Body = std::function<int(Rankfile&)>;

/// Runs the body as every rank of a job, or as one if horarun started this process; gives the exit
/// status. `threads`: ranks are threads of this process.
int run_job(int size, bool threads, const Body& body);

/// Prints why and ends this process: a benchmark has nothing better to do.
[[noreturn]] void give_up(const Status& status);
template <class T>
T need(Result<T> result) {
  if (!result.ok()) give_up(result.status());
  return std::move(result).value();
}
inline void need(Status status) {
  if (!status.ok()) give_up(status);
}

double seconds_now();        ///< monotonic
double processor_seconds();  ///< of this process so far

}  // namespace hora::benchmarks
