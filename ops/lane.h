#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hora/status.h"

namespace hora {

class Lane;

/// The eventual outcome of an operation that moves bytes. A coroutine: it starts when it is
/// awaited, or handed to Lane::start(), runs until it must wait for somebody else, and goes on when
/// the lane's driver finds that the wait is over. Nothing in it may block.
///
///   Ticket exchange(Lane& lane) {
///     post();
///     HORA_CO_TRY(co_await lane.until([&] { return all_posted(); }));
///     HORA_CO_TRY(co_await other_operation(lane));      // awaiting runs it
///     co_return Status();
///   }
///
/// A coroutine's parameters must outlive it: pass views of what the plan owns, never temporaries.
class [[nodiscard]] Ticket {
 public:
  struct promise_type;
  using Coroutine = std::coroutine_handle<promise_type>;

  struct promise_type {
    Status outcome;
    std::coroutine_handle<> continuation = std::noop_coroutine();

    Ticket get_return_object() { return Ticket(Coroutine::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct Resume {
        bool await_ready() noexcept { return false; }
        std::coroutine_handle<> await_suspend(Coroutine done) noexcept {
          return done.promise().continuation;
        }
        void await_resume() noexcept {}
      };
      return Resume{};
    }
    void return_value(Status status) { outcome = std::move(status); }
    void unhandled_exception();  ///< nothing of ours throws: our bug

    /// Frames come from a small per-thread store, so a steady state allocates nothing.
    static void* operator new(size_t bytes);
    static void operator delete(void* frame, size_t bytes);
  };

  Ticket() = default;
  Ticket(Ticket&& other) noexcept : coroutine_(std::exchange(other.coroutine_, {})) {}
  Ticket& operator=(Ticket&& other) noexcept {
    std::swap(coroutine_, other.coroutine_);
    return *this;
  }
  ~Ticket() {
    if (coroutine_) coroutine_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
    coroutine_.promise().continuation = awaiting;
    return coroutine_;
  }
  Status await_resume() { return std::move(coroutine_.promise().outcome); }

 private:
  friend class Lane;
  explicit Ticket(Coroutine coroutine) : coroutine_(coroutine) {}
  Coroutine coroutine_;
};

/// Ends the coroutine with the status of `expression` unless that is ok.
#define HORA_CO_TRY(expression)                                                  \
  do {                                                                           \
    if (::hora::Status status_ = (expression); !status_.ok()) co_return status_; \
  } while (false)

/// An ordered executor: runs one Ticket at a time, driven by whoever calls progress(). Also the
/// place where an operation finds scratch memory that lasts from bucket to bucket.
///
/// Threads: one at a time (the engine's token holder, or the one thread of a test).
class Lane {
 public:
  explicit Lane(int index) : index_(index) {}

  int index() const { return index_; }

  void start(Ticket ticket);  ///< the lane must be idle
  bool idle() const { return !running_.coroutine_; }

  /// Resumes the operation if what it waits for has come. Returns whether anything moved. When the
  /// operation ends, the lane is idle and outcome() tells how.
  bool progress();
  Status outcome() { return std::exchange(outcome_, {}); }  ///< once

  /// From now on every wait ends at once with `why`, and so do the operations that wait. Bytes that
  /// were already written stay written.
  void abort(Status why);
  bool aborted() const { return !why_.ok(); }

  /// Suspends until `ready()` is true; ready() is called often, must be cheap and stay true once it
  /// was. Gives ok, or why the lane was aborted.
  template <class Ready>
  auto until(Ready ready) {
    return Wait<Ready, true>(*this, std::move(ready));
  }

  /// Like until(), but an abort does not end it: for memory that another thread still uses. Whoever
  /// uses it must itself end soon after an abort.
  template <class Ready>
  auto settle(Ready ready) {
    return Wait<Ready, false>(*this, std::move(ready));
  }

  /// Lets the driver look after control and other lanes before a long computation goes on.
  auto pause() {
    struct Pause : Waiting {
      explicit Pause(Lane& on) : lane(on) {
        poll = [](Waiting*) { return true; };
      }
      bool await_ready() { return false; }
      void await_suspend(std::coroutine_handle<> handle) { lane.suspend(*this, handle); }
      Status await_resume() { return lane.why_; }
      Lane& lane;
    };
    return Pause(*this);
  }

  /// At least `bytes` of memory, aligned to 64, that keeps its contents until the same slot asks
  /// for more. `slot` tells apart what one operation needs at once.
  std::span<std::byte> scratch(size_t slot, size_t bytes);

 private:
  static constexpr int kSpins = 16;
  static void relax();
  struct Waiting {
    bool (*poll)(Waiting*) = nullptr;
    std::coroutine_handle<> suspended;
  };
  void suspend(Waiting& waiting, std::coroutine_handle<> handle) {
    waiting.suspended = handle;
    waiting_ = &waiting;
  }

  template <class Ready, bool kEndsOnAbort>
  struct Wait : Waiting {
    Wait(Lane& on, Ready test) : lane(on), ready(std::move(test)) {
      poll = [](Waiting* self) { return static_cast<Wait*>(self)->over(); };
    }
    bool over() { return (kEndsOnAbort && lane.aborted()) || ready(); }
    bool await_ready() {
      for (int i = 0; i < kSpins; ++i) {
        if (over()) return true;
        relax();
      }
      return false;
    }
    void await_suspend(std::coroutine_handle<> handle) { lane.suspend(*this, handle); }
    Status await_resume() { return kEndsOnAbort && lane.aborted() ? lane.why_ : Status(); }
    Lane& lane;
    Ready ready;
  };

  struct Free {
    void operator()(std::byte* memory) const;
  };
  struct Scratch {
    std::unique_ptr<std::byte[], Free> memory;
    size_t bytes = 0;
  };

  const int index_;
  Ticket running_;
  Waiting* waiting_ = nullptr;
  Status outcome_, why_;
  std::vector<Scratch> scratch_;
};

}  // namespace hora
