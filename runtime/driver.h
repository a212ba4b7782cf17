#pragma once

#include <sched.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hora/engine.h"
#include "ops/auto_chain.h"
#include "ops/auto_choices.h"
#include "ops/backend.h"
#include "ops/relax.h"
#include "runtime/carried.h"
#include "runtime/clock.h"
#include "runtime/compression.h"
#include "runtime/control_channel.h"
#include "runtime/flight_recorder.h"
#include "runtime/lane_runner.h"
#include "runtime/log.h"
#include "runtime/name_table.h"
#include "runtime/negotiator.h"
#include "runtime/observer.h"
#include "runtime/operation.h"
#include "runtime/request_queue.h"
#include "runtime/token.h"

namespace hora {

/// What an engine stands on: how control frames travel, how data travels, and who is there.
struct Transport {
  World world;
  std::vector<int> hosts;  ///< the host of each rank, for the control tree
  std::unique_ptr<ControlChannel> channel;
  std::unique_ptr<Backend> backend;
  Topology topology;                    ///< the same on all ranks, with the slowest link
  CodecSpeeds speeds = usual_speeds();  ///< likewise
  AutoChoices chosen;                   ///< likewise: what rank 0 chose when it last met others
  std::shared_ptr<void> keep;           ///< whatever must outlive both
};

/// The one loop of an engine: requests in, frames in and out, plans to lanes, lanes forward,
/// completions out. Never blocks but in sleep().
///
/// Threads: everything below `token` belongs to whoever holds it: the engine's own thread, or a
/// caller that waits. The rest says so.
class Driver {
 public:
  Driver(Transport transport, const Config& config, const Clock& clock, Log log);
  ~Driver();

  Token token;

  /// One turn. Returns whether anything moved. Token holder.
  bool step();

  /// Drives until `done()` or until nothing has moved for the time that a wait yields. Returns
  /// done(). Token holder.
  template <class Done>
  bool spin(Done done) {
    int64_t idle_since = 0;
    for (int idle = 0; !done(); ++idle) {
      if (step()) {
        idle = 0;
      } else if (idle < kPauses) {
        cpu_relax();
      } else {
        const int64_t now = clock_.now();
        if (idle == kPauses) idle_since = now;
        if (now - idle_since >= spin_) return false;
        ::sched_yield();
      }
    }
    return true;
  }

  /// Drives until `done()` or `deadline`, and sleeps when nothing moves. Token holder. False if a
  /// signal came while it slept.
  template <class Done>
  bool drive(Done done, int64_t deadline) {
    while (!spin(done)) {
      transport_.channel->bell().arm();
      const int64_t left = deadline - clock_.now();
      const bool signalled = !step() && !done() && left > 0 && !sleep(left);
      awake();
      if (signalled) return false;
      if (left <= 0) return true;
    }
    return true;
  }

  /// The engine's thread gives the token back: from now on whoever makes work wakes it.
  void listen();

  /// A visitor gives the token back. Pokes the engine's thread if it leaves work behind.
  void leave();

  /// Waits until somebody rings, a peer dies, a signal comes or `timeout_ns` has passed. Any
  /// thread; false if a signal came.
  bool sleep(int64_t timeout_ns) const;

  /// The token was taken: from now on nobody needs to wake us. Token holder.
  void enter() {
    transport_.channel->bell().disarm();
    entered_at_ = clock_.now();
  }

  /// After sleep(): forgets past rings and looks for dead peers in the next step. Token holder.
  void awake();

  /// Any thread: new work was queued. Does not end the thread's nap: whoever visited a moment ago
  /// will most likely wait for this work, and drive.
  void ring() { transport_.channel->bell().ring(); }
  /// Any thread: wakes the engine's thread whatever it does.
  void wake();

  RequestQueue queue;        ///< any thread
  OperationPool operations;  ///< any thread
  NameTable names;           ///< any thread
  Compression compression;
  Observer observer;  ///< its own rules; after `names`, which its timeline uses

  /// Any thread. Why the epoch ended; ok while it lasts.
  Status health() const;
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  /// Nothing more will come and no lane works: the engine may be taken down. Token holder.
  bool finished() const;

  const World& world() const { return transport_.world; }

  /// Any thread. Memory that the backend reaches in place, or plain memory if it has none.
  Result<std::span<std::byte>> allocate(size_t bytes);
  Counters counters() const { return observer.counters(); }
  /// Any thread. What a timeline's file says about this rank.
  TimelineFile::Origin origin() const;

  /// Requests that this rank has taken up and that have not ended. Token holder.
  uint64_t open() const { return open_; }

  /// What the program says of itself, for the flight record. Any thread.
  void note(std::string text);

  /// Writes the flight record, and whatever `where` says of the program. Token holder.
  Status dump_flight_record(const std::string& directory, std::string_view reason,
                            std::string_view where);

  void on_stall(std::function<void(const Stall&)> report);
  void on_whereabouts(std::function<std::string()> describe);

  /// In the child of a fork.
  void forget_in_child();

 private:
  bool take_requests();
  void request(Operation& operation);
  bool take_frames();
  void take_lost();
  bool run_lanes();
  void take_ended(LaneRunner& lane);
  void deliver();
  void complete(Operation* operation, const Status& status, int64_t value = 0);
  void finish_carried(const Outputs::Result& result);
  void end_epoch(const Status& why);
  void sweep();
  void report(const Outputs::Stall& stall);
  void answer(const Outputs::Ask& ask);
  void keep_flight_record(std::string_view reason, std::string_view where);
  std::string whereabouts() const;

  static constexpr int kPauses = 16;

  Transport transport_;
  const Config config_;
  const int64_t spin_;  ///< ns of yielding before a sleep
  const Clock& clock_;
  const Log log_;
  const Options options_;
  std::unique_ptr<Negotiator> negotiator_;
  CarriedResult carried_;
  std::vector<std::unique_ptr<LaneRunner>> lanes_;
  struct Frame {
    Rank from = 0;
    std::string bytes;
  };
  std::vector<Frame> frames_;  ///< of them, arrived_ wait for the next step; used again and again
  size_t arrived_ = 0;
  Inputs inputs_;
  Outputs outputs_;
  bool dirty_ = true;  ///< inputs_ holds something
  bool all_sent_ = true;
  int64_t wake_at_ = 0, looked_at_ = 0;
  const int watched_;  ///< epoll: the bell and whatever tells that a peer died; any thread

  /// A lane failed by itself: the control plane names the cause, so wait for its verdict a while.
  struct DataError {
    Status status;
    std::string what;
    int64_t since = 0;
    std::vector<Operation*> held;
  };
  std::optional<DataError> data_error_;

  std::atomic<bool> ended_{false};
  bool closed_ = false, swept_ = false;
  int64_t entered_at_ = 0;     ///< when the visitor took the token
  uint64_t open_ = 0;          ///< requests taken from the queue and not completed
  mutable std::mutex shared_;  ///< guards the following
  std::vector<std::unique_ptr<std::byte[], Buffer::Free>> plain_;
  Status health_;
  std::function<void(const Stall&)> stall_;
  std::function<std::string()> whereabouts_;
  std::string note_;

  std::string last_name_;  ///< what this rank submitted last, and when
  int64_t last_submit_ = 0;
  std::string where_;  ///< the program's stack when another rank last asked
};

}  // namespace hora
