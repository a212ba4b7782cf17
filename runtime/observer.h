#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/clock.h"
#include "runtime/flight_recorder.h"
#include "runtime/metrics.h"
#include "runtime/name_table.h"
#include "runtime/operation.h"
#include "runtime/timeline.h"

namespace hora {

/// The one place that hears of everything that happens to requests and buckets: a request is taken,
/// agreed on (once for each slice) and done; the bucket that it travels in is begun and ended.
/// Tells the metrics, the flight recorder, and the timeline while it is on. Another member that
/// wants to know is told here, too.
///
/// Costs some additions for each request and one look at the clock for each bucket, two while a
/// timeline is on: requests get the time of the driver's step. Allocates nothing.
///
/// Threads: the token holder, but for waited() and counters().
class Observer {
 public:
  explicit Observer(const Clock& clock) : timeline(clock), clock_(clock) {}

  Metrics metrics;
  Timeline timeline;
  FlightRecorder flight;

  /// The time of what is heard next, until something says another.
  void at(int64_t now) { now_ = now; }

  /// The driver has taken a request from the queue.
  void taken(Operation& operation) {
    operation.taken_at = std::max(now_, operation.submitted_at);
    flight.taken(operation);
    add(Phase::kSubmitted, operation.submitted_at, operation.taken_at);
    if (timeline.on())
      timeline.record(Moment::of(Moment::Kind::kSubmitted, operation.submitted_at, operation.name,
                                 static_cast<uint64_t>(operation.taken_at), operation.request.set,
                                 static_cast<uint64_t>(operation.request.op)));
  }

  /// All ranks have agreed to run a slice of it as part of a bucket.
  void agreed(Operation& operation, Seq plan, uint64_t bytes) {
    FlightRecorder::agreed(operation, plan, now_);
    if (!operation.handed) add(Phase::kNegotiating, operation.taken_at, now_);
    if (timeline.on())
      timeline.record(
          Moment::of(Moment::Kind::kAgreed, agreed_at(operation), operation.name, plan, bytes, 0));
  }

  /// A bucket's turn on its lane has come. Gives the time: exact while somebody draws it; else that
  /// of the driver's step, or of the bucket before it.
  int64_t begun(Seq plan, int lane, Op op, uint8_t how, int64_t agreed) {
    flight.begun(plan, lane);
    if (timeline.on()) now_ = clock_.now();
    add(Phase::kQueued, agreed, now_);
    if (timeline.on())
      timeline.record(Moment::of(Moment::Kind::kBegun, now_, nullptr, plan,
                                 static_cast<uint64_t>(op) | uint64_t{how} << 8,
                                 static_cast<uint64_t>(lane)));
    return now_;
  }

  /// A bucket has ended. `begun` 0: its turn never came.
  void ended(Seq plan, Code code, uint64_t bytes, size_t tensors, int64_t begun) {
    now_ = clock_.now();
    metrics.buckets.add(1);
    metrics.bytes.add(bytes);
    metrics.bucket_bytes.add(bytes);
    metrics.bucket_tensors.add(tensors);
    if (begun != 0) add(Phase::kMoving, begun, now_);
    if (timeline.on())
      timeline.record(Moment::of(Moment::Kind::kEnded, now_, nullptr, plan, bytes,
                                 static_cast<uint64_t>(code)));
  }

  /// A request has ended; its status says how.
  void done(const Operation& operation) {
    const Code code = operation.status.code();
    metrics.requests.add(1);
    metrics.operations[static_cast<size_t>(operation.request.op)].add(1);
    if (code != Code::kOk) metrics.errors.add(1);
    add(Phase::kTotal, operation.submitted_at, now_);
    flight.done(operation, now_);
    if (timeline.on() && operation.name)
      timeline.record(Moment::of(Moment::Kind::kDone, std::max(now_, operation.submitted_at),
                                 operation.name, 0, 0, static_cast<uint64_t>(code)));
  }

  /// A caller has waited since `began` for something that had not ended. Any thread.
  void waited(const Name* name, int64_t began, int64_t ended) {
    metrics.waits.add_shared(static_cast<uint64_t>(std::max<int64_t>(ended - began, 0)));
    if (timeline.on())
      timeline.record_aside(
          Moment::of(Moment::Kind::kWaited, began, name, static_cast<uint64_t>(ended), 0, 0));
  }

  int64_t now() const { return now_; }

  Counters counters() const {
    Counters counters = metrics.snapshot();
    counters.timeline_dropped = timeline.dropped();
    return counters;
  }

 private:
  int64_t agreed_at(const Operation& operation) const { return std::max(now_, operation.taken_at); }
  void add(Phase phase, int64_t from, int64_t to) {
    metrics.of(phase).add(static_cast<uint64_t>(std::max<int64_t>(to - from, 0)));
  }

  const Clock& clock_;
  int64_t now_ = 0;
};

}  // namespace hora
