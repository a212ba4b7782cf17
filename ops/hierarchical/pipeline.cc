#include "ops/hierarchical/pipeline.h"

namespace hora::hierarchical {

Ticket Pipeline::run(Lane& lane, Stages& stages, size_t chunks) {
  stages_ = &stages;
  chunks_ = chunks;
  scattered_ = crossed_ = 0;
  failed_ = {};
  inside_.start(run_inside());
  across_.start(run_across());
  Status status = failed_;
  while (!inside_.idle() || !across_.idle()) {
    if (!status.ok()) {
      inside_.abort(status);
      across_.abort(status);
    }
    const auto step = [this, moved = false]() mutable {
      const bool inside = inside_.progress(), across = across_.progress();
      moved |= inside || across;
      return moved;
    };
    if (!status.ok()) {
      HORA_CO_TRY(co_await lane.settle(step));
      continue;
    }
    status = co_await lane.until(step);
    if (status.ok()) status = co_await lane.pause();
    if (status.ok()) status = failed_;
  }
  co_return status.ok() ? failed_ : status;
}

Ticket Pipeline::run_inside() {
  for (size_t k = 0; k <= chunks_ && chunks_ > 0; ++k) {
    if (k < chunks_) {
      Ticket in = stages_->scatter(inside_, k);
      HORA_CO_TRY(note(co_await in));
      scattered_ = k + 1;
    }
    if (k == 0) continue;
    HORA_CO_TRY(co_await inside_.until([this, k] { return crossed_ >= k; }));
    Ticket out = stages_->gather(inside_, k - 1);
    HORA_CO_TRY(note(co_await out));
  }
  co_return Status();
}

Ticket Pipeline::run_across() {
  for (size_t k = 0; k < chunks_; ++k) {
    HORA_CO_TRY(co_await across_.until([this, k] { return scattered_ > k; }));
    Ticket over = stages_->cross(across_, k);
    HORA_CO_TRY(note(co_await over));
    crossed_ = k + 1;
  }
  co_return Status();
}

/// Tells the other coroutine of a failure.
Status Pipeline::note(Status status) {
  if (!status.ok() && failed_.ok()) failed_ = status;
  return status;
}

}  // namespace hora::hierarchical
