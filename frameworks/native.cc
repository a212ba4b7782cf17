// The extension module hora._native: one rank's engine, seen from Python. It includes no
// framework's header: tensors come as addresses, results go as buffers.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "frameworks/calls.h"
#include "frameworks/errors.h"
#include "frameworks/membership.h"
#include "frameworks/owner.h"
#include "frameworks/prepared_request.h"
#include "frameworks/python_codec.h"
#include "frameworks/terms.h"
#include "hora/config.h"
#include "hora/engine.h"
#include "hora/membership.h"
#include "hora/request.h"
#include "hora/status.h"

namespace nb = nanobind;

namespace hora {
namespace {

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

nb::str as_str(std::string_view text) {
  return nb::str(text.data(), text.size());
}

nb::dict as_dict(const Histogram& histogram) {
  nb::dict result;
  nb::list buckets;
  for (const uint64_t count : histogram.buckets) buckets.append(count);
  result["count"] = histogram.count;
  result["sum"] = histogram.sum;
  result["buckets"] = buckets;
  return result;
}

/// An engine in Python's hands. Methods run under the interpreter's lock, which therefore guards
/// `scratch_`: a request that is reused, so that submitting does not allocate in the steady state.
class Session {
 public:
  explicit Session(std::unique_ptr<Engine> engine)
      : owner_(std::make_shared<Owner>(std::move(engine))) {
    owner_->engine->on_whereabouts([answers = owner_->whereabouts] { return answers->ask(); });
  }

  static Session start(uint32_t earlier_starts, const std::string& choices) {
    Config config = take(Config::from_environment());
    config.epoch += earlier_starts;
    return start(config, choices);
  }

  /// In an elastic job, where the launcher has given this process a place.
  static Session start_at(const Place& place, const std::string& choices) {
    Config config = take(Config::from_environment());
    config.epoch = place.epoch;
    config.rank = place.rank;
    config.size = place.size;
    config.local_rank = place.local_rank;
    config.local_size = place.local_size;
    config.cross_rank = place.cross_rank;
    config.cross_size = place.cross_size;
    // All others were there a moment ago: who does not come soon is lost.
    config.start_timeout = std::min(config.start_timeout, config.failure_timeout);
    return start(config, choices);
  }

  static Session start(const Config& config, const std::string& choices) {
    Result<std::unique_ptr<Engine>> engine = [&] {
      const nb::gil_scoped_release unlocked;
      return Engine::start(config, choices);
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

  void wait(Handle handle) const { check(owner_->wait(handle, nullptr)); }

  nb::list wait_all(nb::list handles) const { return hora::wait_all(*owner_, handles); }

  /// Waits, and gives (list of (buffer or None, dtype, shape), received splits, value).
  nb::tuple fetch(Handle handle) const {
    Outcome outcome;
    check(owner_->wait(handle, &outcome));
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

  void dump_flight_record(const std::string& directory) const {
    Engine& running = engine();
    check([&] {
      const nb::gil_scoped_release unlocked;
      return running.dump_flight_record(directory);
    }());
  }

  void note(std::string text) const { engine().note(std::move(text)); }

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

  nb::bytes save_memories(SetId set, const std::string& name, bool slabs) const {
    Engine& running = engine();
    const std::string bytes = take([&] {
      const nb::gil_scoped_release unlocked;
      return running.save_memories(set, name, slabs);
    }());
    return nb::bytes(bytes.data(), bytes.size());
  }

  void load_memories(nb::list parts, bool ours, SetId set, const std::string& name) const {
    Engine& running = engine();
    std::vector<std::string> texts;
    for (const nb::handle part : parts) {
      const auto bytes = nb::cast<nb::bytes>(part);
      texts.emplace_back(bytes.c_str(), bytes.size());
    }
    check([&] {
      const nb::gil_scoped_release unlocked;
      return running.load_memories(texts, ours, set, name);
    }());
  }

  nb::tuple memories() const {
    Engine& running = engine();
    double lost = 0;
    const std::vector<Remembered> all = take([&] {
      const nb::gil_scoped_release unlocked;
      return running.memories(&lost);
    }());
    nb::list rows;
    for (const Remembered& row : all) {
      nb::dict entry;
      entry["process_set"] = row.set;
      entry["tensor"] = row.tensor;
      entry["chain"] = row.chain;
      entry["exchanges"] = row.exchanges;
      entry["bytes"] = row.bytes;
      entry["owed"] = row.owed;
      rows.append(entry);
    }
    return nb::make_tuple(rows, lost);
  }

  nb::dict counters() const {
    const Counters counters = engine().counters();
    nb::dict result, operations, phases;
    result["requests"] = counters.requests;
    result["errors"] = counters.errors;
    result["buckets"] = counters.buckets;
    result["bytes"] = counters.bytes;
    result["wire_bytes"] = counters.wire_bytes;
    result["control_bytes"] = counters.control_bytes;
    result["compressed_bytes"] = counters.compressed_bytes;
    result["compressed_wire_bytes"] = counters.compressed_wire_bytes;
    result["timeline_dropped"] = counters.timeline_dropped;
    for (size_t i = 0; i < kOps; i++) {
      operations[as_str(name_of(static_cast<Op>(i)))] = counters.operations[i];
    }
    for (size_t i = 0; i < kPhases; i++) {
      phases[as_str(name_of(static_cast<Phase>(i)))] = as_dict(counters.phases[i]);
    }
    result["operations"] = operations;
    result["phases"] = phases;
    result["waits"] = as_dict(counters.waits);
    result["bucket_bytes"] = as_dict(counters.bucket_bytes);
    result["bucket_tensors"] = as_dict(counters.bucket_tensors);
    return result;
  }

  std::string metrics_text() const { return engine().metrics_text(); }

  void start_timeline(const std::string& path) const { check(engine().start_timeline(path)); }
  void stop_timeline() const {
    Engine& running = engine();
    check([&] {
      const nb::gil_scoped_release unlocked;
      return running.stop_timeline();
    }());
  }
  int64_t begin_range() const { return engine().begin_range(); }
  void end_range(const std::string& name, int64_t began) const { engine().end_range(name, began); }

 private:
  std::shared_ptr<Owner> owner_;
  Request scratch_;
};

template <class Field>
auto from_world(Field field) {
  return [field](const Session& session) { return session.engine().world().*field; };
}

void define_session(nb::module_& m) {
  nb::class_<Session>(m, "Engine", "One rank's share of the runtime.")
      .def_static("start", nb::overload_cast<uint32_t, const std::string&>(&Session::start),
                  nb::arg("earlier_starts") = 0, nb::arg("choices") = "",
                  "Meets the other ranks, as the environment says.")
      .def_static("start_at", &Session::start_at, nb::arg("place"), nb::arg("choices"),
                  "Meets the other ranks of an epoch of an elastic job.")
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
      .def_prop_ro("automatic_choices",
                   [](const Session& s) { return s.engine().automatic_choices(); })
      .def_prop_ro("backend", [](const Session& s) { return s.engine().config().backend; })
      .def("submit", &Session::submit)
      .def("submit_group", &Session::submit_group)
      .def("submit_control", &Session::submit_control)
      .def("wait", &Session::wait, nb::arg("handle"))
      .def("wait_all", &Session::wait_all, nb::arg("handles"))
      .def("fetch", &Session::fetch, nb::arg("handle"))
      .def("poll", &Session::poll, nb::arg("handle"))
      .def("flush", &Session::flush, nb::arg("domain"))
      .def("allocate", &Session::allocate, nb::arg("bytes"))
      .def("shutdown", &Session::shutdown)
      .def("dump_flight_record", &Session::dump_flight_record, nb::arg("directory"))
      .def("note", &Session::note, nb::arg("text"))
      .def("check_health", &Session::check_health)
      .def("disown", &Session::disown)
      .def("next_question", &Session::next_question)
      .def("answer", &Session::answer, nb::arg("text"))
      .def("ask", &Session::ask)
      .def("save_memories", &Session::save_memories, nb::arg("set"), nb::arg("name"),
           nb::arg("slabs"))
      .def("load_memories", &Session::load_memories, nb::arg("parts"), nb::arg("ours"),
           nb::arg("set"), nb::arg("name"))
      .def("memories", &Session::memories)
      .def("counters", &Session::counters)
      .def("metrics_text", &Session::metrics_text)
      .def("start_timeline", &Session::start_timeline, nb::arg("path"))
      .def("stop_timeline", &Session::stop_timeline)
      .def("begin_range", &Session::begin_range)
      .def("end_range", &Session::end_range, nb::arg("name"), nb::arg("began"));
  nb::class_<PreparedRequest>(m, "PreparedRequest", "A request that is submitted each step.")
      .def("__init__",
           [](PreparedRequest* self, const Session& session, unsigned op, unsigned dtype,
              nb::tuple shape, nb::str name, unsigned reduce, SetId set, double prescale,
              double postscale, nb::str chain, int16_t priority, uint16_t domain) {
             const Terms terms{op, reduce, set, 0, prescale, postscale, priority, domain};
             new (self) PreparedRequest(session.owner(), terms, dtype, shape, name, chain);
           })
      .def("submit", &PreparedRequest::submit)
      .def("submit_gradient", &PreparedRequest::submit_gradient)
      .def_prop_rw("view", &PreparedRequest::view, &PreparedRequest::set_view,
                   nb::for_setter(nb::arg("view").none()));
  nb::class_<Calls>(m, "Calls", "In-place allreduces made before, which take a short way.")
      .def("__init__",
           [](Calls* self, const Session& session) { new (self) Calls(session.owner()); })
      .def("remember", &Calls::remember, nb::arg("tensors"), nb::arg("name"), nb::arg("op").none(),
           nb::arg("prescale"), nb::arg("postscale"), nb::arg("process_set"), nb::arg("reduce"),
           nb::arg("set_id"))
      .def("submit", &Calls::submit, nb::arg("tensor").none(), nb::arg("name"),
           nb::arg("op").none(), nb::arg("prescale"), nb::arg("postscale"), nb::arg("process_set"))
      .def("finish", &Calls::finish, nb::arg("handle").none())
      .def("holds", &Calls::holds, nb::arg("handle").none())
      .def("submit_group", &Calls::submit_group, nb::arg("tensors"), nb::arg("name"),
           nb::arg("op").none(), nb::arg("prescale"), nb::arg("postscale"), nb::arg("process_set"));
}

std::string canonical(const std::string& setting) {
  return take(canonical_compression(setting));
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
  hora::define_membership(m);
  hora::define_session(m);
  hora::define_compressors(m);
  m.def("canonical_compression", &hora::canonical, nb::arg("setting"),
        "A compression setting with everything written out; ValueError says what is wrong.");
  m.def("settings", &hora::describe_settings,
        "(name, type, default, range, help, Horovod's name) of every environment variable.");
}
