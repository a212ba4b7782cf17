// The extension module hora._native: one rank's engine, seen from Python. It includes no
// framework's header: tensors come as addresses, results go as buffers. Python exceptions are made
// here alone.

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "hora/config.h"
#include "hora/engine.h"
#include "hora/request.h"
#include "hora/status.h"

namespace nb = nanobind;

namespace hora {
namespace {

using std::chrono::milliseconds;

// How long Ctrl-C may go unnoticed, and how long a stall report waits for the interpreter.
constexpr milliseconds kSignalPeriod{100};
constexpr milliseconds kAnswerPatience{100};

const char* exception_name(Code code) {
  switch (code) {
    case Code::kMismatch:
      return "Mismatch";
    case Code::kJoined:
      return "Joined";
    case Code::kSetRemoved:
      return "SetRemoved";
    case Code::kPeerLeft:
      return "PeerLeft";
    case Code::kShutdown:
      return "Shutdown";
    case Code::kPeerLost:
      return "PeerLost";
    case Code::kTimeout:
      return "Timeout";
    case Code::kOutOfMemory:
      return "OutOfMemory";
    case Code::kUnavailable:
      return "Unavailable";
    default:
      return "HoraError";
  }
}

// The caller's mistake is a ValueError, as in Horovod; everything else is a HoraError.
[[noreturn]] void raise(const Status& status) {
  if (status.code() == Code::kInvalidArgument) {
    PyErr_SetString(PyExc_ValueError, status.message().c_str());
  } else {
    const nb::object type =
        nb::module_::import_("hora._native").attr(exception_name(status.code()));
    PyErr_SetString(type.ptr(), status.message().c_str());
  }
  throw nb::python_error();
}

void check(const Status& status) {
  if (!status.ok()) [[unlikely]]
    raise(status);
}

template <class T>
T take(Result<T> result) {
  if (!result.ok()) [[unlikely]]
    raise(result.status());
  return std::move(result).value();
}

/// Lets the engine's thread ask what Python is doing without ever touching the interpreter: a
/// Python thread waits here for questions, and a question not answered soon is answered without it.
class Whereabouts {
 public:
  std::string ask() {
    std::unique_lock lock(mutex_);
    asked_ = true;
    answered_ = false;
    changed_.notify_all();
    if (changed_.wait_for(lock, kAnswerPatience, [this] { return answered_ || closed_; }) &&
        answered_) {
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
      const nb::gil_scoped_release unlocked;
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

  std::unique_ptr<Engine> engine;
  std::shared_ptr<Whereabouts> whereabouts = std::make_shared<Whereabouts>();
  bool foreign = false;
};

template <class Enum>
Enum checked(unsigned code, unsigned last, const char* what) {
  if (code > last) {
    raise(Status(Code::kInvalidArgument, std::string(what) + " " + std::to_string(code) +
                                             " does not exist; the last one is " +
                                             std::to_string(last)));
  }
  return static_cast<Enum>(code);
}

DType dtype_of(unsigned code) {
  return checked<DType>(code, kDTypes - 1, "dtype");
}

void assign_shape(Shape& shape, nb::handle tuple) {
  shape.clear();
  for (const nb::handle dim : nb::cast<nb::tuple>(tuple)) {
    shape.push_back(PyLong_AsLongLong(dim.ptr()));
    if (shape.back() < 0) {
      if (PyErr_Occurred()) throw nb::python_error();
      raise(Status(Code::kInvalidArgument, "a dimension of a shape is negative"));
    }
  }
}

void assign_tensor(Tensor& tensor, uintptr_t data, DType dtype, nb::handle shape) {
  tensor.data = reinterpret_cast<void*>(data);
  tensor.dtype = dtype;
  tensor.device = Device{};
  assign_shape(tensor.shape, shape);
}

/// What a request says besides its tensors.
struct Terms {
  unsigned op, reduce;
  SetId set;
  Rank root;
  double prescale, postscale;
  int16_t priority;
  uint16_t domain;
};

void assign_terms(Request& request, const Terms& terms, nb::str name, nb::str chain) {
  request.op = checked<Op>(terms.op, static_cast<unsigned>(Op::kJoin), "operation");
  request.reduce =
      checked<ReduceOp>(terms.reduce, static_cast<unsigned>(ReduceOp::kAdasum), "reduction");
  request.set = terms.set;
  request.root = terms.root;
  request.prescale = terms.prescale;
  request.postscale = terms.postscale;
  request.priority = terms.priority;
  request.domain = terms.domain;
  request.name = name.c_str();
  request.chain = chain.c_str();
}

nb::object as_buffer(void* data, size_t bytes, nb::capsule owner) {
  return nb::cast(nb::ndarray<nb::memview, uint8_t, nb::ndim<1>>(data, {bytes}, owner));
}

nb::object as_buffer(Buffer buffer) {
  const size_t bytes = count_of(buffer.shape) * bytes_of(buffer.dtype);
  if (bytes == 0) return nb::none();
  void* data = buffer.data.release();
  return as_buffer(data, bytes,
                   nb::capsule(data, [](void* memory) noexcept { std::free(memory); }));
}

/// An engine in Python's hands. Methods run under the interpreter's lock, which therefore guards
/// `scratch_`: a request that is reused, so that submitting does not allocate in the steady state.
class Session {
 public:
  explicit Session(std::unique_ptr<Engine> engine)
      : owner_(std::make_shared<Owner>(std::move(engine))) {
    owner_->engine->on_whereabouts([answers = owner_->whereabouts] { return answers->ask(); });
  }

  static Session start(uint32_t earlier_starts) {
    Config config = take(Config::from_environment());
    config.epoch += earlier_starts;
    Result<std::unique_ptr<Engine>> engine = [&] {
      const nb::gil_scoped_release unlocked;
      return Engine::start(config);
    }();
    return Session(take(std::move(engine)));
  }

  static std::vector<Session> start_local(int size) {
    const Config config = take(Config::from_environment());
    std::vector<std::unique_ptr<Engine>> engines = take([&] {
      const nb::gil_scoped_release unlocked;
      return Engine::start_local(size, config);
    }());
    std::vector<Session> sessions;
    for (auto& engine : engines) sessions.emplace_back(std::move(engine));
    return sessions;
  }

  Engine& engine() const { return owner_->use(); }
  const std::shared_ptr<Owner>& owner() const { return owner_; }

  Handle submit(unsigned op, uintptr_t input, uintptr_t output, unsigned dtype, nb::tuple shape,
                nb::str name, unsigned reduce, SetId set, Rank root, double prescale,
                double postscale, nb::str chain, int16_t priority, uint16_t domain) {
    assign_terms(scratch_, {op, reduce, set, root, prescale, postscale, priority, domain}, name,
                 chain);
    const DType type = dtype_of(dtype);
    scratch_.inputs.resize(1);
    scratch_.outputs.resize(1);
    assign_tensor(scratch_.inputs[0], input, type, shape);
    // The engine sets the shape of what it allocates itself.
    assign_tensor(scratch_.outputs[0], output, type, shape);
    scratch_.splits.clear();
    scratch_.members.clear();
    return take(engine().submit(scratch_));
  }

  /// Several tensors that run as a whole; each is (input address, output address or 0, dtype,
  /// shape).
  Handle submit_group(unsigned op, nb::list tensors, nb::str name, unsigned reduce, SetId set,
                      Rank root, double prescale, double postscale, nb::str chain,
                      std::vector<int64_t> splits) {
    assign_terms(scratch_, {op, reduce, set, root, prescale, postscale, 0, 0}, name, chain);
    const size_t count = nb::len(tensors);
    scratch_.inputs.resize(count);
    scratch_.outputs.resize(count);
    for (size_t i = 0; i < count; i++) {
      const nb::tuple tensor = nb::cast<nb::tuple>(tensors[i]);
      const DType type = dtype_of(nb::cast<unsigned>(tensor[2]));
      assign_tensor(scratch_.inputs[i], nb::cast<uintptr_t>(tensor[0]), type, tensor[3]);
      assign_tensor(scratch_.outputs[i], nb::cast<uintptr_t>(tensor[1]), type, tensor[3]);
    }
    scratch_.splits = std::move(splits);
    scratch_.members.clear();
    return take(engine().submit(scratch_));
  }

  /// Operations without tensors: barrier, join, add_set, remove_set.
  Handle submit_control(unsigned op, nb::str name, SetId set, Rank root,
                        std::vector<Rank> members) {
    const Terms terms{op, static_cast<unsigned>(ReduceOp::kSum), set, root, 1, 1, 0, 0};
    assign_terms(scratch_, terms, name, nb::str(""));
    scratch_.inputs.clear();
    scratch_.outputs.clear();
    scratch_.splits.clear();
    scratch_.members = std::move(members);
    return take(engine().submit(scratch_));
  }

  void wait(Handle handle) const { check(wait_for_signals_too(handle, nullptr)); }

  /// Waits, and gives (list of (buffer or None, dtype, shape), received splits, value).
  nb::tuple fetch(Handle handle) const {
    Outcome outcome;
    check(wait_for_signals_too(handle, &outcome));
    nb::list outputs;
    for (Buffer& buffer : outcome.outputs) {
      nb::list shape;
      for (const int64_t dim : buffer.shape) shape.append(dim);
      const auto dtype = static_cast<unsigned>(buffer.dtype);
      outputs.append(nb::make_tuple(as_buffer(std::move(buffer)), dtype, nb::tuple(shape)));
    }
    return nb::make_tuple(outputs, outcome.received_splits, outcome.value);
  }

  bool poll(Handle handle) const { return engine().poll(handle); }
  void flush(uint16_t domain) const { engine().flush(domain); }

  nb::object allocate(size_t bytes) const {
    const std::span<std::byte> memory = take(engine().allocate(bytes));
    auto keep = std::make_unique<std::shared_ptr<Owner>>(owner_);
    nb::capsule owner(keep.get(), [](void* kept) noexcept {
      const std::unique_ptr<std::shared_ptr<Owner>> last(
          static_cast<std::shared_ptr<Owner>*>(kept));
    });
    static_cast<void>(keep.release());
    return as_buffer(memory.data(), memory.size(), owner);
  }

  void shutdown() const {
    Engine& running = engine();
    const Status status = [&] {
      const nb::gil_scoped_release unlocked;
      return running.shutdown();
    }();
    owner_->whereabouts->close();
    check(status);
  }

  void check_health() const { check(engine().health()); }
  void disown() const { owner_->foreign = true; }

  bool next_question() const {
    const std::shared_ptr<Whereabouts> questions = owner_->whereabouts;
    const nb::gil_scoped_release unlocked;
    return questions->next_question();
  }
  void answer(std::string text) const { owner_->whereabouts->answer(std::move(text)); }
  std::string ask() const {
    const std::shared_ptr<Whereabouts> questions = owner_->whereabouts;
    const nb::gil_scoped_release unlocked;
    return questions->ask();
  }

  nb::dict counters() const {
    const Counters counters = engine().counters();
    nb::dict result;
    result["requests"] = counters.requests;
    result["errors"] = counters.errors;
    result["buckets"] = counters.buckets;
    result["bytes"] = counters.bytes;
    result["wire_bytes"] = counters.wire_bytes;
    result["control_bytes"] = counters.control_bytes;
    return result;
  }

 private:
  // Python runs a signal's handler between calls into C only, so a long wait has to come back.
  Status wait_for_signals_too(Handle handle, Outcome* outcome) const {
    Engine& running = engine();
    for (;;) {
      const Status status = [&] {
        const nb::gil_scoped_release unlocked;
        return running.wait_for(handle, kSignalPeriod, outcome);
      }();
      if (status.code() != Code::kTimeout) return status;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      static_cast<void>(engine());  // a signal's handler may have forked
    }
  }

  std::shared_ptr<Owner> owner_;
  Request scratch_;
};

/// A request that is submitted again each step, in place, on memory that may move.
class PreparedRequest {
 public:
  PreparedRequest(const Session& session, unsigned op, unsigned dtype, nb::tuple shape,
                  nb::str name, unsigned reduce, SetId set, double prescale, double postscale,
                  nb::str chain, int16_t priority, uint16_t domain)
      : owner_(session.owner()) {
    assign_terms(request_, {op, reduce, set, 0, prescale, postscale, priority, domain}, name,
                 chain);
    request_.inputs.resize(1);
    assign_tensor(request_.inputs[0], 0, dtype_of(dtype), shape);
    request_.outputs = request_.inputs;
  }

  Handle submit(uintptr_t data, float lr, uint64_t step) {
    request_.inputs[0].data = request_.outputs[0].data = reinterpret_cast<void*>(data);
    request_.lr = lr;
    request_.step = step;
    return take(owner_->use().submit(request_));
  }

 private:
  std::shared_ptr<Owner> owner_;
  Request request_;
};

/// A group that is submitted again and again, in place.
class PreparedGroup {
 public:
  PreparedGroup(const Session& session, unsigned op, unsigned dtype, nb::list shapes, nb::str name,
                unsigned reduce, SetId set, double prescale, double postscale, nb::str chain)
      : owner_(session.owner()) {
    assign_terms(request_, {op, reduce, set, 0, prescale, postscale, 0, 0}, name, chain);
    request_.inputs.resize(nb::len(shapes));
    for (size_t i = 0; i < request_.inputs.size(); i++)
      assign_tensor(request_.inputs[i], 0, dtype_of(dtype), shapes[i]);
    request_.outputs = request_.inputs;
  }

  Handle submit(nb::list data) {
    if (nb::len(data) != request_.inputs.size())
      throw nb::value_error("one address for each tensor");
    for (size_t i = 0; i < request_.inputs.size(); i++)
      request_.inputs[i].data = request_.outputs[i].data =
          reinterpret_cast<void*>(nb::cast<uintptr_t>(data[i]));
    return take(owner_->use().submit(request_));
  }

 private:
  std::shared_ptr<Owner> owner_;
  Request request_;
};

void define_exceptions(nb::module_& m) {
  const auto define = [&m](const char* name, nb::handle base, const char* doc) {
    const std::string full = std::string("hora.") + name;
    nb::object type = nb::steal(PyErr_NewExceptionWithDoc(full.c_str(), doc, base.ptr(), nullptr));
    if (!type.is_valid()) throw nb::python_error();
    m.attr(name) = type;
    return type;
  };
  const nb::object base =
      define("HoraError", PyExc_RuntimeError,
             "An operation failed; the message says what, where and what to do.");
  define("Mismatch", base, "Ranks disagree about an operation; all are told, and the job goes on.");
  define("Joined", base, "A member has joined, and zeros are not neutral for this operation.");
  define("SetRemoved", base, "The process set was removed while the operation waited.");
  define("PeerLeft", base, "A member has shut down and will never submit this operation.");
  define("Shutdown", base, "Hora has shut down in this process.");
  define("PeerLost", base, "A rank died, was cut off or fell silent; the job has to start again.");
  define("Timeout", base, "A deadline has passed.");
  define("OutOfMemory", base, "Memory that the operation needs could not be had.");
  define("Unavailable", base, "Something that this machine, build or process does not have.");
}

template <class Field>
auto from_world(Field field) {
  return [field](const Session& session) { return session.engine().world().*field; };
}

void define_session(nb::module_& m) {
  nb::class_<Session>(m, "Engine", "One rank's share of the runtime.")
      .def_static("start", &Session::start, nb::arg("earlier_starts") = 0,
                  "Meets the other ranks, as the environment says.")
      .def_static("start_local", &Session::start_local, nb::arg("size"),
                  "Ranks for threads of this process.")
      .def_prop_ro("rank", from_world(&World::rank))
      .def_prop_ro("size", [](const Session& s) { return s.engine().world().size(); })
      .def_prop_ro("local_rank", from_world(&World::local_rank))
      .def_prop_ro("local_size", from_world(&World::local_size))
      .def_prop_ro("cross_rank", from_world(&World::cross_rank))
      .def_prop_ro("cross_size", from_world(&World::cross_size))
      .def_prop_ro("hosts",
                   [](const Session& s) {
                     std::vector<std::string> hosts;
                     for (const Member& member : s.engine().world().members) {
                       hosts.push_back(member.host);
                     }
                     return hosts;
                   })
      .def_prop_ro("compression", [](const Session& s) { return s.engine().config().compression; })
      .def_prop_ro("backend", [](const Session& s) { return s.engine().config().backend; })
      .def("submit", &Session::submit)
      .def("submit_group", &Session::submit_group)
      .def("submit_control", &Session::submit_control)
      .def("wait", &Session::wait, nb::arg("handle"))
      .def("fetch", &Session::fetch, nb::arg("handle"))
      .def("poll", &Session::poll, nb::arg("handle"))
      .def("flush", &Session::flush, nb::arg("domain"))
      .def("allocate", &Session::allocate, nb::arg("bytes"))
      .def("shutdown", &Session::shutdown)
      .def("check_health", &Session::check_health)
      .def("disown", &Session::disown)
      .def("next_question", &Session::next_question)
      .def("answer", &Session::answer, nb::arg("text"))
      .def("ask", &Session::ask)
      .def("counters", &Session::counters);
  nb::class_<PreparedRequest>(m, "PreparedRequest", "A request that is submitted each step.")
      .def(nb::init<const Session&, unsigned, unsigned, nb::tuple, nb::str, unsigned, SetId, double,
                    double, nb::str, int16_t, uint16_t>())
      .def("submit", &PreparedRequest::submit);
  nb::class_<PreparedGroup>(m, "PreparedGroup", "A group that is submitted each step.")
      .def(nb::init<const Session&, unsigned, unsigned, nb::list, nb::str, unsigned, SetId, double,
                    double, nb::str>())
      .def("submit", &PreparedGroup::submit);
}

nb::list describe_settings() {
  nb::list rows;
  for (const Setting& row : settings()) {
    rows.append(nb::make_tuple(row.name, row.type, row.standard, row.range, row.help, row.alias));
  }
  return rows;
}

}  // namespace
}  // namespace hora

NB_MODULE(_native, m) {
  m.doc() = "Hora's engine. Use the package hora instead: this module may change at any time.";
  m.attr("VERSION") = HORA_VERSION;
  // The interpreter's end does not collect everything that tensors keep alive; that is no leak of
  // ours.
  nb::set_leak_warnings(false);
  hora::define_exceptions(m);
  hora::define_session(m);
  m.def("settings", &hora::describe_settings,
        "(name, type, default, range, help, Horovod's name) of every environment variable.");
}
