#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "hora/config.h"
#include "hora/status.h"

namespace hora {

/// Where a process stands in one epoch of an elastic job.
struct Place {
  uint32_t epoch = 0;
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  ///< among the ranks of its host
  int cross_rank = 0, cross_size = 1;  ///< among the ranks of this local_rank, one on each host
  friend bool operator==(const Place&, const Place&) = default;
};

/// One process's side of an elastic job, in which ranks come and go while others keep their
/// process. The launcher decides who takes part in an epoch; a process asks it for a place, keeps
/// that place until the epoch ends, and asks again. docs/elastic.md tells the whole exchange.
///
/// Threads: any; await_change() may wait while others call.
/// Errors: kUnavailable: the launcher is gone.
class Membership {
 public:
  /// Connects to the launcher. Needs config.worker > 0.
  static Result<std::unique_ptr<Membership>> open(const Config& config);
  virtual ~Membership() = default;

  /// This process has left its epoch, or never had one, and is ready for the next.
  virtual Status ask() = 0;

  /// The launcher's answer to the last ask(). Errors: kTimeout: none yet, call again; kShutdown:
  /// the job goes on without this process, which should end.
  virtual Result<Place> answer(std::chrono::milliseconds timeout) = 0;

  /// Waits until the launcher wants `epoch` to end, so that ranks may join or leave: true. False
  /// when leave() was called, or the launcher is gone.
  virtual bool await_change(uint32_t epoch) = 0;

  /// Ends await_change(`epoch`).
  virtual void leave(uint32_t epoch) = 0;
};

/// The keys and values by which Membership and the launcher talk through the job's store.
namespace membership {

/// Set by worker `worker` when it asks for the `ask`-th time, from 1; answered under answer_key().
struct Ask {
  int worker = 0;
  uint64_t number = 0;
  friend bool operator==(const Ask&, const Ask&) = default;
};
std::string ask_key(const Ask& ask);
std::optional<Ask> parse_ask(std::string_view key);
std::string answer_key(const Ask& ask);
std::string change_key(uint32_t epoch);  ///< the first to set it wins

std::string text_of(const Place& place);
std::optional<Place> parse_place(std::string_view text);
constexpr const char* kLeave = "leave";      ///< instead of a place
constexpr const char* kChange = "change";    ///< the launcher's value of change_key()
constexpr const char* kNoChange = "closed";  ///< that of the rank which waited for it

}  // namespace membership
}  // namespace hora
