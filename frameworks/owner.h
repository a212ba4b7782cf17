#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <nanobind/nanobind.h>

#include "frameworks/errors.h"
#include "hora/engine.h"

namespace hora {

/// Lets the engine's thread ask what Python is doing without ever touching the interpreter: a
/// Python thread waits here for questions, and a question not answered soon is answered without it.
class Whereabouts {
 public:
  std::string ask() {
    std::unique_lock lock(mutex_);
    asked_ = true;
    answered_ = false;
    changed_.notify_all();
    if (changed_.wait_for(lock, kPatience, [this] { return answered_ || closed_; }) && answered_) {
      return text_;
    }
    return "busy in native code: the Python interpreter did not answer within 100 ms";
  }

  /// False: there will be no more questions.
  bool next_question() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return asked_ || closed_; });
    asked_ = false;
    return !closed_;
  }

  void answer(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
    answered_ = true;
    changed_.notify_all();
  }

  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  static constexpr std::chrono::milliseconds kPatience{100};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool asked_ = false, answered_ = false, closed_ = false;  // guarded by mutex_, as the text is
  std::string text_;
};

/// Ends the engine when the last of the Python object and the views of its arena is gone. The end
/// may wait for peers and for the engine's thread, hence without the interpreter's lock. In a
/// forked child the engine belongs to the parent: it is left alone, on purpose also by the
/// destructor.
struct Owner {
  explicit Owner(std::unique_ptr<Engine> started) : engine(std::move(started)) {}
  ~Owner() {
    if (foreign) {
      // Destroying a condition that a thread of the parent waits on would never return.
      static_cast<void>(std::make_unique<std::shared_ptr<Whereabouts>>(whereabouts).release());
      static_cast<void>(engine.release());
      return;
    }
    whereabouts->close();
    if (PyGILState_Check()) {
      const nanobind::gil_scoped_release unlocked;
      engine.reset();
    } else {
      engine.reset();
    }
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  /// The engine, unless this process is a fork of the one that started it.
  Engine& use() const {
    if (foreign) [[unlikely]] {
      raise(Status(Code::kUnavailable,
                   "this process was made by fork() from one that had called hora.init(); the "
                   "connections belong to the parent. Start it with the \"spawn\" method, or call "
                   "Hora in the parent only"));
    }
    return *engine;
  }

  /// Engine::wait() for a Python thread: others run meanwhile, and Ctrl-C raises.
  Status wait(Handle handle, Outcome* outcome) const {
    Engine& running = use();
    if (running.poll(handle)) return running.wait(handle, outcome);
    for (;;) {
      const Status status = [&] {
        const nanobind::gil_scoped_release unlocked;
        return running.wait_for(handle, kSignalPeriod, outcome);
      }();
      if (status.code() != Code::kTimeout) return status;
      // Python runs a signal's handler between calls into C only, so a long wait has to come back.
      if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
      static_cast<void>(use());  // the handler may have forked
    }
  }

  static constexpr std::chrono::milliseconds kSignalPeriod{
      100};  ///< Ctrl-C may go unnoticed so long

  std::unique_ptr<Engine> engine;
  std::shared_ptr<Whereabouts> whereabouts = std::make_shared<Whereabouts>();
  bool foreign = false;
};

}  // namespace hora
