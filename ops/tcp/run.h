#pragma once

#include <numeric>
#include <span>
#include <utility>

#include "ops/tcp/communicator.h"

namespace hora::tcp {

constexpr uint64_t kPauseBytes = 1 << 20;  ///< moved between two looks at other work

inline size_t sum_of(std::span<const size_t> amounts) {
  return std::accumulate(amounts.begin(), amounts.end(), size_t{0});
}

/// An operation that ends before its time, for whatever reason, leaves the connections useless.
class Completion {
 public:
  explicit Completion(Links& links) : links_(links) {}
  ~Completion() {
    if (!reached_) links_.retire(Status(Code::kPeerLost, "tcp: an earlier operation was aborted"));
  }
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;
  void reached() { reached_ = true; }

 private:
  Links& links_;
  bool reached_ = false;
};

template <class Work>
Ticket TcpCommunicator::run(Lane& lane, uint64_t tag, Work work) {
  HORA_CO_TRY(co_await lane.until([] { return true; }));  // not after an abort
  Links& links = *links_;
  HORA_CO_TRY(links.begin(tag));
  Completion completion(links);
  work.start(lane);
  for (uint64_t paused_at = 0;;) {
    const bool goes_on = work.step();
    if (!goes_on && links.done()) break;
    if (goes_on)
      (void)links.advance();
    else
      HORA_CO_TRY(co_await lane.until([&links] { return links.advance(); }));
    HORA_CO_TRY(links.status());
    if (!goes_on && links.moved() - paused_at < kPauseBytes) continue;
    paused_at = links.moved();
    HORA_CO_TRY(co_await lane.pause());
  }
  work.finish();
  completion.reached();
  co_return Status();
}

}  // namespace hora::tcp
