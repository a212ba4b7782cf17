#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/backend.h"
#include "tests/support/run_ranks.h"

namespace hora::support {

/// Makes one rank's backend; called in that rank's own thread or process, all ranks at once.
using Opener = std::function<Result<std::unique_ptr<Backend>>(Rank rank)>;

/// A backend that the conformance suite runs over. Register it from any file of the test program:
///
///   const bool kRegistered = add_backend_case({.name = "shm", .prepare = ..., .processes = true});
struct BackendCase {
  std::string name = {};  ///< letters, digits and underscores
  /// Before the ranks start: makes what they share (a hub, a store, memory).
  std::function<Opener(int size)> prepare = {};
  bool processes = false;  ///< ranks are forked processes, not threads
  /// Combines in an order of its own: asked for the same bits on all ranks and a tolerance only.
  bool own_order = false;
  /// Why this machine cannot run it; empty if it can. Null: it always can.
  std::function<std::string()> unavailable = {};
  int slowness = 1;  ///< divides the number of repetitions in long tests
};

bool add_backend_case(BackendCase one);
const std::vector<BackendCase>& backend_cases();

/// A rank in a test: its backend, and lanes with a communicator of all ranks on each.
class Party {
 public:
  Party(const BackendCase& of, std::unique_ptr<Backend> backend, Rank rank, int size);

  const BackendCase& of() const { return of_; }
  Backend& backend() { return *backend_; }
  Rank rank() const { return rank_; }
  int size() const { return size_; }
  size_t members() const { return static_cast<size_t>(size_); }
  Lane& lane() { return lane_; }
  Communicator& world() { return *world_; }
  Status ready();  ///< makes world()
  uint64_t tag() { return Tag::of(++sequence_, 0); }
  Status run(Ticket ticket) { return support::run(lane_, std::move(ticket)); }

 private:
  const BackendCase& of_;
  const Rank rank_;
  const int size_;
  std::unique_ptr<Backend> backend_;
  Lane lane_{0};
  uint64_t sequence_ = 0;
  std::unique_ptr<Communicator> world_;
};

/// Runs the body on every rank of a job of this backend; gives what went wrong.
std::string run_case(const BackendCase& one, int size,
                     const std::function<std::string(Party&)>& body);

/// A test that runs on every backend there is; skipped, with the reason, where it cannot.
class OnBackend : public ::testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    if (!GetParam().unavailable) return;
    if (const std::string why = GetParam().unavailable(); !why.empty()) GTEST_SKIP() << why;
  }
  static void check(int size, const std::function<std::string(Party&)>& body) {
    EXPECT_EQ(run_case(GetParam(), size, body), "") << size << " ranks";
  }
};

/// Memory that all ranks see, threads or processes; made before they start.
class SharedWords {
 public:
  explicit SharedWords(size_t count);
  ~SharedWords();
  SharedWords(const SharedWords&) = delete;
  SharedWords& operator=(const SharedWords&) = delete;
  std::atomic<uint64_t>& operator[](size_t index) { return words_[index]; }

 private:
  size_t count_;
  std::atomic<uint64_t>* words_;
};

}  // namespace hora::support
