#pragma once

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/config.h"
#include "hora/counters.h"
#include "hora/request.h"
#include "hora/status.h"
#include "hora/world.h"

namespace hora {

/// Memory that an operation allocated for its result; freed with std::free.
struct Buffer {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> data;
  Shape shape;
  DType dtype = DType::kFloat32;
};

/// What became of a request. The status is the wait's own return value.
struct Outcome {
  std::vector<Buffer> outputs;           ///< for every output that was submitted without memory
  std::vector<int64_t> received_splits;  ///< alltoall: rows from each member
  int64_t value = 0;                     ///< add_set: the set's id; join: the last rank to join
};

/// A request that others are late for, told once per stall_warning while it lasts.
struct Stall {
  SetId set = 0;
  std::string name;
  double seconds = 0;       ///< since this rank submitted it
  uint32_t missing = 0;     ///< how many ranks have not
  std::vector<Rank> ranks;  ///< the lowest 16 of them
  /// Parallel to `ranks`: last submit and Python stack, if known.
  std::vector<std::string> details;
};

/// What compression remembers of one tensor on this rank, as a metric.
struct Remembered {
  SetId set = 0;
  std::string tensor, chain;
  uint64_t exchanges = 0;
  uint64_t bytes = 0;  ///< of host memory
  double owed = 0;     ///< root of the sum of squares of what is owed to the model
};

/// A compression setting with presets expanded and every key written out. Errors: kInvalidArgument
/// names the character, what is wrong and what was probably meant.
Result<std::string> canonical_compression(std::string_view setting);

/// One rank's share of the runtime. No global state: a process may hold many.
///
/// Threads: any thread may call any member but the destructor.
/// Errors: before submit() returned ok nothing was queued; after it did, the request completes
/// exactly once, whatever happens, and its handle is good until it was waited for.
class Engine {
 public:
  /// Meets the other ranks of `config.size` through `config.store` and starts the background
  /// thread. Waits up to config.start_timeout; the error names who is missing. `choices`: what
  /// automatic_choices() gave when this rank last met others, if it did.
  static Result<std::unique_ptr<Engine>> start(const Config& config, std::string_view choices = {});

  /// `size` ranks as threads of this process (config's rank, size and store are ignored).
  static Result<std::vector<std::unique_ptr<Engine>>> start_local(int size, const Config& config);

  /// shutdown(), and frees the arena.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const World& world() const;
  const Config& config() const;

  /// Queues a copy of `request` and returns at once; never touches the network. Errors:
  /// kInvalidArgument (what and why), kPeerLost or kShutdown if the epoch is over.
  Result<Handle> submit(const Request& request);

  /// The request ends. Pushes it: what lingers for its bucket goes out alone. Consumes the handle.
  /// May drive the engine in the calling thread. A signal handler that must run (Ctrl-C) needs
  /// wait_for() in a loop.
  Status wait(Handle handle, Outcome* outcome = nullptr);

  /// Like wait(), but gives kTimeout when `timeout` has passed, or EINTR came, and keeps the
  /// handle.
  Status wait_for(Handle handle, std::chrono::milliseconds timeout, Outcome* outcome = nullptr);

  /// Has it ended? Pushes like wait(); does not consume the handle.
  bool poll(Handle handle);

  /// submit() and wait(), without waking the background thread: the fastest way for one small
  /// tensor.
  Status run(const Request& request, Outcome* outcome = nullptr);

  /// The last gradient of this optimizer's step was submitted: nothing of it lingers any longer.
  void flush(uint16_t domain);

  /// Memory that the backend can reach in place (DESIGN: the arena), aligned to 64, kept until the
  /// engine ends. Errors: kOutOfMemory.
  Result<std::span<std::byte>> allocate(size_t bytes);

  /// Leaves the job: peers' requests that need this rank fail with kPeerLeft, naming it. Bounded by
  /// half the failure timeout. Idempotent. Handles stay good; requests not ended get kShutdown.
  Status shutdown();

  /// Why the epoch ended, or ok while it lasts.
  Status health() const;

  /// What compression remembers (residuals, momenta, clocks) of tensor `name` of process set `set`,
  /// or of all tensors if the name is empty, as bytes; without `slabs` only the clocks. Empty:
  /// nothing. Also after shutdown(). Errors: kUnavailable while operations are in flight, since
  /// then part of a memory is in messages.
  Result<std::string> save_memories(SetId set = 0, std::string_view name = {}, bool slabs = true);

  /// Puts what ranks have saved, one text of each, in the place of what is remembered; with a name,
  /// as that of this tensor, whatever it was called. compressors/state_store.h says who takes what
  /// when ranks have changed; `ours`: all of it is this rank's to take. All ranks must load what
  /// was saved after the same step. Errors: kCorrupt; kUnavailable as above.
  Status load_memories(std::span<const std::string> parts, bool ours = false, SetId set = 0,
                       std::string_view name = {});

  /// What is remembered of each tensor, and, in `lost`, the sum of magnitudes of what was owed and
  /// had to be dropped. Reads all memories. Errors: kUnavailable as above.
  Result<std::vector<Remembered>> memories(double* lost = nullptr);

  /// What the compression `auto` has chosen, as text. Where ranks meet again, rank 0's decides
  /// which chains are kept although what was measured has changed a little. Also after shutdown().
  std::string automatic_choices() const;

  Counters counters() const;
  /// The same for Prometheus, in its text format.
  std::string metrics_text() const;

  /// From now on writes what happens to every request to a Chrome trace, see docs/timeline.md: rank
  /// 0 to `path`, rank 3 to the path with .3 before its extension. At most
  /// config().timeline_bytes. Errors: kInvalidArgument if a timeline is on, or the file cannot be
  /// written.
  Status start_timeline(const std::string& path);
  /// The file is whole when it returns; nothing to do if no timeline is on. Errors: kUnavailable if
  /// not everything could be written.
  Status stop_timeline();

  /// A stretch of the caller's own work for the timeline, such as "backward": begin_range() gives
  /// the time, or 0 while no timeline is on; end_range() does nothing with 0.
  int64_t begin_range() const;
  void end_range(std::string_view name, int64_t began);

  /// Writes this rank's last operations to `directory`/rank<N>.json, for `hora explain`; makes the
  /// directory. With HORA_FLIGHT_DIR the engine does so by itself when the epoch ends badly, when a
  /// stall is reported by this rank or about it, and at shutdown. Errors: kUnavailable says why the
  /// file could not be written.
  Status dump_flight_record(const std::string& directory);

  /// Keeps what the program says of itself, such as the exception that ends it, for the flight
  /// record. Any thread.
  void note(std::string text);

  /// Called from the background thread for every stall report; replaces the default (a warning on
  /// stderr). Must not call the engine.
  void on_stall(std::function<void(const Stall&)> report);

  /// Asked, from the background thread, when another rank's stall report names this one: what is it
  /// doing? Usually the Python stack. At most 4 KiB are used; must return soon.
  void on_whereabouts(std::function<std::string()> describe);

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hora
