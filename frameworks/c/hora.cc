// libhora's functions: they check what came from C, make requests of it, and turn what the engine
// says into numbers and words. Whatever is thrown ends here.

#include "hora/hora.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hora/config.h"
#include "hora/engine.h"
#include "hora/request.h"
#include "hora/status.h"
#include "hora/tensor.h"
#include "hora/world.h"

struct hora_engine {
  std::unique_ptr<hora::Engine> engine;
};

namespace hora {
namespace {

constexpr int encoded(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}
static_assert(HORA_VERSION == encoded(HORA_PROJECT_VERSION), "hora.h has the project's version");

template <class Enum>
constexpr bool same(int number, Enum value) {
  return number == static_cast<int>(value);
}
static_assert(same(HORA_OK, Code::kOk) && same(HORA_INVALID_ARGUMENT, Code::kInvalidArgument) &&
              same(HORA_MISMATCH, Code::kMismatch) && same(HORA_JOINED, Code::kJoined) &&
              same(HORA_SET_REMOVED, Code::kSetRemoved) && same(HORA_PEER_LEFT, Code::kPeerLeft) &&
              same(HORA_SHUTDOWN, Code::kShutdown) && same(HORA_PEER_LOST, Code::kPeerLost) &&
              same(HORA_TIMEOUT, Code::kTimeout) && same(HORA_OUT_OF_MEMORY, Code::kOutOfMemory) &&
              same(HORA_UNAVAILABLE, Code::kUnavailable) && same(HORA_CORRUPT, Code::kCorrupt) &&
              same(HORA_INTERNAL, Code::kInternal));
static_assert(same(HORA_UINT8, DType::kUInt8) && same(HORA_INT8, DType::kInt8) &&
              same(HORA_INT16, DType::kInt16) && same(HORA_INT32, DType::kInt32) &&
              same(HORA_INT64, DType::kInt64) && same(HORA_FLOAT16, DType::kFloat16) &&
              same(HORA_BFLOAT16, DType::kBFloat16) && same(HORA_FLOAT32, DType::kFloat32) &&
              same(HORA_FLOAT64, DType::kFloat64) && same(HORA_BOOL, DType::kBool) &&
              HORA_BOOL + 1 == kDTypes);
static_assert(same(HORA_SUM, ReduceOp::kSum) && same(HORA_AVERAGE, ReduceOp::kAverage) &&
              same(HORA_MIN, ReduceOp::kMin) && same(HORA_MAX, ReduceOp::kMax) &&
              same(HORA_PRODUCT, ReduceOp::kProduct) && same(HORA_ADASUM, ReduceOp::kAdasum));

constexpr int64_t kMostElements = int64_t{1} << 48;  // as the engine has it
constexpr int64_t kMostDims = 16;

thread_local std::string last_error;
// Reused, so that submitting does not allocate in the steady state.
thread_local Request scratch;

int keep(Code code, std::string_view text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error = "out of memory";  // short enough to need none
  }
  return static_cast<int>(code);
}

/// Does `work` and gives C its status.
template <class Work>
int answer(Work work) noexcept {
  try {
    const Status status = work();
    return status.ok() ? HORA_OK : keep(status.code(), status.message());
  } catch (const std::bad_alloc&) {
    return keep(Code::kOutOfMemory, "out of memory");
  } catch (const std::exception& error) {
    return keep(Code::kInternal, error.what());
  } catch (...) {
    return keep(Code::kInternal, "an exception without words");
  }
}

Status bad(std::string what) {
  return Status(Code::kInvalidArgument, std::move(what));
}

Status need(const void* pointer, const char* what) {
  if (pointer) return {};
  return bad(std::string(what) + " is NULL");
}

template <class Enum>
Status assign(Enum& to, int number, int last, const char* what) {
  if (number < 0 || number > last)
    return bad(std::string(what) + " " + std::to_string(number) +
               " does not exist; there are 0 to " + std::to_string(last));
  to = static_cast<Enum>(number);
  return {};
}

Status assign_shape(Shape& to, int64_t count, const hora_options& options) {
  if (!options.shape) {
    if (options.dims != 0) return bad("options: dims is set, but shape is NULL");
    to.assign(1, count);
    return {};
  }
  if (options.dims < 0 || options.dims > kMostDims)
    return bad("options: dims is " + std::to_string(options.dims) + "; there are 0 to " +
               std::to_string(kMostDims));
  to.assign(options.shape, options.shape + options.dims);
  int64_t product = 1;
  for (const int64_t dim : to) {
    if (dim < 0) return bad("options: shape has the dimension " + std::to_string(dim));
    if (dim > 0 && product > kMostElements / dim)
      return bad("options: shape has more than 2^48 elements");
    product *= dim;
  }
  if (product == count) return {};
  return bad("options: shape has " + std::to_string(product) + " elements, but count is " +
             std::to_string(count));
}

/// What options say of a request; all but the shape, which belongs to a tensor.
Status assign_options(Request& request, const hora_options& options) {
  if (std::any_of(std::begin(options.reserved), std::end(options.reserved),
                  [](uint64_t word) { return word != 0; }))
    return bad("options: reserved is not zero; set all of it to zero first");
  const bool scaled = options.prescale != 0 || options.postscale != 0;
  if (scaled && request.op != Op::kAllreduce)
    return bad("options: prescale and postscale are for allreduce, not for " +
               std::string(name_of(request.op)));
  request.name = options.name ? options.name : "";
  request.chain = options.compression ? options.compression : "";
  request.prescale = options.prescale != 0 ? options.prescale : 1;
  request.postscale = options.postscale != 0 ? options.postscale : 1;
  return {};
}

/// One tensor, as C describes it.
struct Argument {
  const void* input;
  void* output;  ///< null: the engine allocates it
  int64_t count;
  int dtype;
};

Status assign_tensor(Request& request, const Argument& argument, const hora_options& options) {
  request.inputs.resize(1);
  request.outputs.resize(1);
  Tensor& input = request.inputs[0];
  HORA_TRY(assign(input.dtype, argument.dtype, HORA_BOOL, "dtype"));
  if (argument.count < 0 || argument.count > kMostElements)
    return bad("count is " + std::to_string(argument.count) + "; there are 0 to 2^48");
  if (argument.count > 0) HORA_TRY(need(argument.input, "the tensor's memory"));
  HORA_TRY(assign_shape(input.shape, argument.count, options));
  input.data = const_cast<void*>(argument.input);  // read only, unless it is the output, too
  request.outputs[0].data = argument.output;
  return {};
}

/// The thread's request, made anew; without a tensor if `argument` is null.
Result<Request*> make_request(Op op, const Argument* argument, const hora_options* given) {
  const hora_options options = given ? *given : hora_options{};
  Request& request = scratch;
  request.op = op;
  request.reduce = ReduceOp::kSum;
  request.root = 0;
  HORA_TRY(assign_options(request, options));
  if (argument) {
    HORA_TRY(assign_tensor(request, *argument, options));
  } else {
    request.inputs.clear();
    request.outputs.clear();
  }
  return &request;
}

Result<Request*> allreduce_request(const Argument& argument, int op, const hora_options* options) {
  if (argument.count > 0) HORA_TRY(need(argument.output, "output"));
  auto made = make_request(Op::kAllreduce, &argument, options);
  HORA_TRY(made.status());
  HORA_TRY(assign(made.value()->reduce, op, HORA_ADASUM, "op"));
  return made;
}

Status run(hora_engine* engine, const Result<Request*>& request, Outcome* outcome = nullptr) {
  HORA_TRY(request.status());
  return engine->engine->run(*request.value(), outcome);
}

template <class Field>
int from_world(const hora_engine* engine, Field field) noexcept {
  if (engine) return field(engine->engine->world());
  keep(Code::kInvalidArgument, "engine is NULL");
  return -1;
}

Status start(uint32_t earlier_starts, hora_engine** engine) {
  auto config = Config::from_environment();
  HORA_TRY(config.status());
  if (config.value().worker > 0)
    return Status(Code::kUnavailable,
                  "this is an elastic job, in which only Python programs can take part yet; start "
                  "it with a fixed number of ranks");
  config.value().epoch += earlier_starts;
  auto started = Engine::start(config.value());
  HORA_TRY(started.status());
  *engine = std::make_unique<hora_engine>(hora_engine{std::move(started).value()}).release();
  return {};
}

Status save(hora_engine* engine, const char* name, void** buffer, size_t* bytes) {
  auto saved = engine->engine->save_memories(0, name ? name : "");
  HORA_TRY(saved.status());
  const std::string& text = saved.value();
  if (text.empty()) return {};
  *buffer = std::malloc(text.size());
  if (!*buffer)
    return Status(Code::kOutOfMemory,
                  "no memory for " + std::to_string(text.size()) + " bytes of memories");
  std::memcpy(*buffer, text.data(), text.size());
  *bytes = text.size();
  return {};
}

Status load(hora_engine* engine, const void* const* parts, const size_t* bytes, size_t count) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < count; ++i) {
    if (bytes[i] == 0) continue;  // a rank that remembered nothing
    HORA_TRY(need(parts[i], "a part"));
    texts.emplace_back(static_cast<const char*>(parts[i]), bytes[i]);
  }
  return engine->engine->load_memories(texts);
}

}  // namespace
}  // namespace hora

using hora::Op;
using hora::Status;

int hora_version(void) {
  return HORA_VERSION;
}

const char* hora_last_error(void) {
  return hora::last_error.c_str();
}

int hora_start(uint32_t earlier_starts, hora_engine** engine) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    *engine = nullptr;
    return hora::start(earlier_starts, engine);
  });
}

int hora_shutdown(hora_engine* engine) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    return engine->engine->shutdown();
  });
}

void hora_free_engine(hora_engine* engine) {
  hora::answer([&]() -> Status {
    const std::unique_ptr<hora_engine> last(engine);
    return {};
  });
}

int hora_rank(const hora_engine* engine) {
  return hora::from_world(engine, [](const hora::World& world) { return world.rank; });
}

int hora_size(const hora_engine* engine) {
  return hora::from_world(engine, [](const hora::World& world) { return world.size(); });
}

int hora_local_rank(const hora_engine* engine) {
  return hora::from_world(engine, [](const hora::World& world) { return world.local_rank; });
}

int hora_local_size(const hora_engine* engine) {
  return hora::from_world(engine, [](const hora::World& world) { return world.local_size; });
}

int hora_allreduce(hora_engine* engine, const void* input, void* output, int64_t count, int dtype,
                   int op, const hora_options* options) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    return hora::run(engine, hora::allreduce_request({input, output, count, dtype}, op, options));
  });
}

int hora_allreduce_async(hora_engine* engine, const void* input, void* output, int64_t count,
                         int dtype, int op, const hora_options* options, hora_handle* handle) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(handle, "handle"));
    *handle = 0;
    HORA_TRY(hora::need(engine, "engine"));
    const auto request = hora::allreduce_request({input, output, count, dtype}, op, options);
    HORA_TRY(request.status());
    const auto submitted = engine->engine->submit(*request.value());
    HORA_TRY(submitted.status());
    *handle = submitted.value();
    return {};
  });
}

int hora_wait(hora_engine* engine, hora_handle handle) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    return engine->engine->wait(handle);
  });
}

int hora_poll(hora_engine* engine, hora_handle handle, int* done) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    HORA_TRY(hora::need(done, "done"));
    *done = engine->engine->poll(handle) ? 1 : 0;
    return {};
  });
}

int hora_broadcast(hora_engine* engine, void* data, int64_t count, int dtype, int root,
                   const hora_options* options) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    const hora::Argument argument{data, data, count, dtype};
    const auto request = hora::make_request(Op::kBroadcast, &argument, options);
    HORA_TRY(request.status());
    request.value()->root = root;
    return hora::run(engine, request);
  });
}

int hora_allgather(hora_engine* engine, const void* input, int64_t count, int dtype,
                   const hora_options* options, void** result, int64_t* result_count) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(result, "result"));
    *result = nullptr;
    HORA_TRY(hora::need(result_count, "result_count"));
    *result_count = 0;
    HORA_TRY(hora::need(engine, "engine"));
    const hora::Argument argument{input, nullptr, count, dtype};
    hora::Outcome outcome;
    HORA_TRY(hora::run(engine, hora::make_request(Op::kAllgather, &argument, options), &outcome));
    *result_count = static_cast<int64_t>(hora::count_of(outcome.outputs[0].shape));
    *result = outcome.outputs[0].data.release();
    return {};
  });
}

int hora_barrier(hora_engine* engine, const hora_options* options) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    return hora::run(engine, hora::make_request(Op::kBarrier, nullptr, options));
  });
}

int hora_save_memories(hora_engine* engine, const char* name, void** buffer, size_t* bytes) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(buffer, "buffer"));
    *buffer = nullptr;
    HORA_TRY(hora::need(bytes, "bytes"));
    *bytes = 0;
    HORA_TRY(hora::need(engine, "engine"));
    return hora::save(engine, name, buffer, bytes);
  });
}

int hora_load_memories(hora_engine* engine, const void* const* parts, const size_t* bytes,
                       size_t count) {
  return hora::answer([&]() -> Status {
    HORA_TRY(hora::need(engine, "engine"));
    if (count > 0) {
      HORA_TRY(hora::need(parts, "parts"));
      HORA_TRY(hora::need(bytes, "bytes"));
    }
    return hora::load(engine, parts, bytes, count);
  });
}

void hora_free_buffer(void* buffer) {
  std::free(buffer);
}
