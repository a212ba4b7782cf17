#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "benchmarks/job.h"
#include "ops/backend.h"
#include "ops/bell.h"

namespace hora::benchmarks {

/// A backend without an engine: one lane, one communicator of all ranks, driven by the caller with
/// the engine's way of waiting (a few pauses, yielding for 50 us, then sleeping on the bell).
class Bare {
 public:
  /// `backend`: shm, tcp, gloo, or local (ranks are threads of this process, `hub` is shared by
  /// them).
  Bare(Rankfile& self, const std::string& backend, std::shared_ptr<void> hub);
  ~Bare();

  Backend& backend() { return *backend_; }
  Communicator& world() { return *world_; }
  Lane& lane() { return lane_; }
  uint64_t next_tag() { return Tag::of(++sequence_, 0); }
  Status run(Ticket ticket);

  /// What ranks as threads share.
  static std::shared_ptr<void> make_hub(int size);

 private:
  void open_shm(Rankfile& self);
  void open_tcp(Rankfile& self);
  void open_gloo(Rankfile& self);

  std::atomic<uint32_t> armed_{0};
  int eventfd_ = -1;
  Bell bell_;
  std::unique_ptr<Backend> backend_;
  Lane lane_{0};
  std::unique_ptr<Communicator> world_;
  uint64_t sequence_ = 0;
};

}  // namespace hora::benchmarks
