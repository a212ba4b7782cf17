#include "hora/engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "runtime/bootstrap.h"
#include "runtime/compression_settings.h"
#include "runtime/driver.h"
#include "runtime/fork_guard.h"
#include "runtime/submission.h"

namespace hora {
namespace {

constexpr int64_t kForever = INT64_MAX / 2;
constexpr int64_t kLookAgain = 50'000'000;  ///< ns a waiter sleeps before it tries the token again

Status bad_handle() {
  return Status(Code::kInvalidArgument,
                "no such handle: it was waited for already, or never given");
}

Status forked() {
  return Status(Code::kInvalidArgument,
                "this process was forked from one that uses Hora: a child cannot use its parent's "
                "engine; start processes with spawn, or initialize Hora in the child");
}

}  // namespace

/// Threads: `driver` says which of its parts need the token.
class Engine::Impl final : public ForkGuard {
 public:
  Impl(Transport transport, const Config& settings)
      : config(settings), driver(std::move(transport), settings, clock, Log(settings)) {
    thread = std::thread([this] { run(); });
  }

  ~Impl() override { stop_thread(); }

  void stop_thread() {
    stop.store(true, std::memory_order_release);
    driver.wake();
    if (thread.joinable()) thread.join();
  }

  /// The engine's own thread: drives whenever nobody else does.
  void run() {
    ::pthread_setname_np(::pthread_self(), "hora-engine");
    const auto stopped = [this] { return stop.load(std::memory_order_acquire); };
    const auto relieved = [&] { return stopped() || driver.token.wanted(); };
    while (!stopped()) {
      if (driver.token.wanted()) {
        driver.token.nap();
        continue;
      }
      driver.token.enter();
      driver.awake();
      driver.spin(relieved);
      const bool listens = !relieved();
      if (listens) driver.listen();
      driver.token.exit();
      if (listens) driver.sleep(kForever);
    }
  }

  Status usable() const {
    if (foreign()) return forked();
    if (driver.ended()) return driver.health();
    if (left.load(std::memory_order_relaxed))
      return Status(Code::kShutdown, "this engine is shutting down");
    return {};
  }

  /// Checks, copies, names and queues a request.
  Result<Operation*> accept(const Request& request) {
    HORA_TRY(usable());
    Operation* operation = driver.operations.take();
    if (!operation)
      return Status(Code::kOutOfMemory,
                    fmt::format("{} requests are in flight: wait for some", OperationPool::kLimit));
    Status status = sign(request, driver.world(), driver.compression, *operation);
    operation->submission.handle = operation->handle();
    operation->submitted_at = clock.now();
    operation->awaited_at = 0;
    bool turn = true;
    if (status.ok() && request.name.empty()) turn = driver.names.begin_unnamed(*operation);
    if (status.ok() && !request.name.empty()) status = driver.names.begin(*operation);
    if (!status.ok()) {
      driver.operations.put(operation);
      return status;
    }
    HORA_CHECK(!turn || driver.queue.push(RequestQueue::Kind::kSubmit, operation->index),
               "the request queue holds fewer than the pool");
    return operation;
  }

  Result<Operation*> find(Handle handle) {
    if (foreign()) return forked();
    Operation* operation = driver.operations.find(handle);
    if (!operation) return bad_handle();
    return operation;
  }

  /// A gradient may linger for its bucket; whoever asks for it pushes it.
  void push(const Operation& operation) {
    if (operation.request.domain != 0)
      driver.queue.push(RequestQueue::Kind::kPush, operation.index);
  }

  /// Until the operation has ended, `deadline`, or a signal; drives if nobody else does.
  void await(Operation& operation, int64_t deadline) {
    if (operation.done()) return;
    push(operation);
    const int64_t began = clock.now();
    if (operation.awaited_at == 0) operation.awaited_at = began;
    const int64_t yield_until = began + static_cast<int64_t>(config.spin * 1e9);
    driver.token.arrive();
    bool rang = false, goes_on = true;
    int64_t ended = 0;  // known for nothing if this thread itself drove
    while (goes_on && !operation.done()) {
      if (driver.token.try_enter()) {
        driver.enter();
        goes_on = driver.drive([&] { return operation.done(); }, deadline);
        driver.leave();
        driver.token.exit();
        ended = clock.now();
        if (ended >= deadline) break;
        continue;
      }
      ended = 0;
      if (!std::exchange(rang, true)) driver.ring();  // the holder may sleep
      const int64_t now = clock.now();
      if (now >= deadline) break;
      if (now < yield_until) {
        ::sched_yield();
        continue;
      }
      // Who sleeps is no visitor: the engine's thread drives, or comes back from its nap to do so.
      driver.token.depart();
      driver.token.poke();
      operation.sleep(std::min(deadline - now, kLookAgain));
      driver.token.arrive();
    }
    driver.token.depart();
    if (operation.done())
      driver.observer.waited(operation.name, operation.awaited_at,
                             ended != 0 ? ended : clock.now());
  }

  /// Does `work(driver)` as the token holder.
  template <class Work>
  auto inside(Work work) {
    driver.token.arrive();
    driver.token.enter();
    driver.enter();
    auto result = work(driver);
    driver.leave();
    driver.token.exit();
    driver.token.depart();
    return result;
  }

  /// Does `work` on the memories of compression, between operations.
  template <class Work>
  Status with_memories(Work work) {
    if (foreign()) return forked();
    return inside([&](Driver& held) -> Status {
      if (!held.ended()) held.step();  // takes what was submitted until now
      if (held.open() > 0)
        return Status(Code::kUnavailable,
                      fmt::format("{} operations are in flight, and part of what compression "
                                  "remembers with them: wait for them first",
                                  held.open()));
      return work(held.compression.states());
    });
  }

  Status start_timeline(const std::string& path) {
    HORA_TRY(usable());
    return driver.observer.timeline.start(path, driver.origin(), config.timeline_bytes);
  }

  /// What became of an operation that has ended; its handle is used up.
  Status settle(Operation& operation, Outcome* outcome) {
    Status status = std::move(operation.status);
    if (outcome) *outcome = std::move(operation.outcome);
    driver.operations.put(&operation);
    return status;
  }

  const SystemClock clock;
  const Config config;
  Driver driver;
  std::atomic<bool> stop{false}, left{false};
  std::thread thread;

 private:
  void in_child() override { driver.forget_in_child(); }
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Engine::~Engine() {
  if (impl_->foreign()) {  // its thread does not exist here, and its memory is not ours to unmap
    [[maybe_unused]] Impl* leaked = impl_.release();
    return;
  }
  (void)shutdown();
}

Result<std::unique_ptr<Engine>> Engine::start(const Config& config, std::string_view choices) {
  HORA_TRY(check_compression(config));
  const auto chosen = AutoChoices::parse(choices);
  HORA_TRY(chosen.status());
  const SystemClock clock;
  auto transport = meet(config, clock, chosen.value());
  if (!transport.ok()) return transport.status();
  auto engine = std::unique_ptr<Engine>(
      new Engine(std::make_unique<Impl>(std::move(transport).value(), config)));
  // Horovod's word for "later, by start_timeline()", which is always possible here.
  if (!config.timeline.empty() && config.timeline != "DYNAMIC")
    HORA_TRY(engine->start_timeline(Timeline::path_in_epoch(config.timeline, config.epoch)));
  return engine;
}

Result<std::vector<std::unique_ptr<Engine>>> Engine::start_local(int size, const Config& config) {
  if (size < 1) return Status(Code::kInvalidArgument, fmt::format("start_local: size is {}", size));
  HORA_TRY(check_compression(config));
  std::vector<std::unique_ptr<Engine>> engines;
  Config each = config;
  each.size = each.local_size = size;
  for (Transport& transport : meet_locally(size)) {
    each.rank = each.local_rank = transport.world.rank;
    if (auto given = parse_speeds(config.codec_speeds); given.ok())
      transport.speeds = std::move(given).value();
    engines.push_back(
        std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(std::move(transport), each))));
  }
  return engines;
}

const World& Engine::world() const {
  return impl_->driver.world();
}
const Config& Engine::config() const {
  return impl_->config;
}

Result<Handle> Engine::submit(const Request& request) {
  auto accepted = impl_->accept(request);
  if (!accepted.ok()) return accepted.status();
  const Handle handle = accepted.value()->submission.handle;
  impl_->driver.ring();
  return handle;
}

Status Engine::wait(Handle handle, Outcome* outcome) {
  auto found = impl_->find(handle);
  if (!found.ok()) return found.status();
  Operation& operation = *found.value();
  while (!operation.done()) impl_->await(operation, kForever);
  return impl_->settle(operation, outcome);
}

Status Engine::wait_for(Handle handle, std::chrono::milliseconds timeout, Outcome* outcome) {
  auto found = impl_->find(handle);
  if (!found.ok()) return found.status();
  Operation& operation = *found.value();
  impl_->await(operation, impl_->clock.now() + timeout.count() * 1'000'000);
  if (operation.done()) return impl_->settle(operation, outcome);
  return Status(Code::kTimeout, fmt::format("'{}' has not ended yet", operation.submission.name));
}

bool Engine::poll(Handle handle) {
  auto found = impl_->find(handle);
  if (!found.ok()) return true;
  Operation& operation = *found.value();
  if (operation.done()) return true;
  impl_->push(operation);
  impl_->driver.ring();
  return false;
}

Status Engine::run(const Request& request, Outcome* outcome) {
  auto accepted = impl_->accept(request);
  if (!accepted.ok()) return accepted.status();
  Operation& operation = *accepted.value();
  while (!operation.done()) impl_->await(operation, kForever);
  return impl_->settle(operation, outcome);
}

void Engine::flush(uint16_t domain) {
  if (impl_->foreign()) return;
  impl_->driver.queue.push(RequestQueue::Kind::kFlush, domain);
  impl_->driver.ring();
}

Result<std::span<std::byte>> Engine::allocate(size_t bytes) {
  HORA_TRY(impl_->usable());
  return impl_->driver.allocate(bytes);
}

Status Engine::shutdown() {
  if (impl_->foreign()) return forked();
  if (impl_->left.exchange(true)) return {};
  Driver& driver = impl_->driver;
  driver.queue.push(RequestQueue::Kind::kLeave, 0);
  driver.ring();
  // The negotiator gives up by itself after 1.25 of the failure timeout; more than 2 is our bug.
  const int64_t limit = static_cast<int64_t>(impl_->config.failure_timeout * 2e9);
  const int64_t deadline = impl_->clock.now() + limit;
  driver.token.arrive();
  driver.token.enter();
  driver.enter();
  while (!driver.finished() && impl_->clock.now() < deadline)
    (void)driver.drive([&] { return driver.finished(); }, deadline);
  driver.leave();
  driver.token.exit();
  driver.token.depart();
  impl_->stop_thread();
  return driver.observer.timeline.stop();
}

Status Engine::health() const {
  return impl_->driver.health();
}
std::string Engine::automatic_choices() const {
  return impl_->foreign() ? std::string() : impl_->driver.compression.choices().text();
}

Counters Engine::counters() const {
  return impl_->driver.counters();
}

std::string Engine::metrics_text() const {
  return hora::metrics_text(counters(), world().rank);
}

Status Engine::start_timeline(const std::string& path) {
  return impl_->start_timeline(path);
}

Status Engine::stop_timeline() {
  if (impl_->foreign()) return forked();
  return impl_->driver.observer.timeline.stop();
}

int64_t Engine::begin_range() const {
  return impl_->driver.observer.timeline.on() ? impl_->clock.now() : 0;
}

void Engine::end_range(std::string_view name, int64_t began) {
  if (began != 0 && !impl_->foreign()) impl_->driver.observer.timeline.record_range(name, began);
}

Status Engine::dump_flight_record(const std::string& directory) {
  if (impl_->foreign()) return forked();
  return impl_->inside([&](Driver& driver) {
    driver.step();  // takes what was submitted until now
    return driver.dump_flight_record(directory, "asked for", {});
  });
}

Result<std::string> Engine::save_memories(SetId set, std::string_view name, bool slabs) {
  Result<std::string> bytes = std::string();
  HORA_TRY(impl_->with_memories([&](StateStore& store) -> Status {
    const auto states = name.empty() ? store.save() : store.save(set, name, slabs);
    if (!states.empty()) bytes = to_bytes(states);
    return {};
  }));
  return bytes;
}

Status Engine::load_memories(std::span<const std::string> parts, bool ours, SetId set,
                             std::string_view name) {
  std::vector<SavedState> all;
  for (const std::string& part : parts) {
    auto states = from_bytes(part);
    if (!states.ok()) return states.status();
    for (SavedState& state : states.value()) {
      if (!name.empty()) {
        state.set = set;
        state.tensor = name;
      }
      all.push_back(std::move(state));
    }
  }
  return impl_->with_memories([&](StateStore& store) -> Status {
    store.load(std::move(all), ours);
    return {};
  });
}

Result<std::vector<Remembered>> Engine::memories(double* lost) {
  std::vector<Remembered> list;
  HORA_TRY(impl_->with_memories([&](StateStore& store) -> Status {
    store.each([&](SetId set, const std::string& tensor, const std::string& chain,
                   const TensorState& state) {
      uint64_t bytes = 0;
      for (const State* slabs : {&state.mine, &state.owned})
        for (const State::Slab& slab : slabs->slabs) bytes += slab.spec.bytes();
      list.push_back({set, tensor, chain, state.step, bytes, store.owed(set, tensor)});
    });
    if (lost) *lost = store.lost();
    return {};
  }));
  return list;
}

void Engine::note(std::string text) {
  if (!impl_->foreign()) impl_->driver.note(std::move(text));
}

void Engine::on_stall(std::function<void(const Stall&)> report) {
  impl_->driver.on_stall(std::move(report));
}

void Engine::on_whereabouts(std::function<std::string()> describe) {
  impl_->driver.on_whereabouts(std::move(describe));
}

}  // namespace hora
