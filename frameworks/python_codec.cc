#include "frameworks/python_codec.h"

#include <bit>
#include <cstring>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "compressors/stage.h"
#include "frameworks/codec_trial.h"
#include "frameworks/errors.h"

namespace nb = nanobind;

namespace hora {
namespace {

struct Frame {
  enum State : uint32_t { kFine, kPoisoned, kFailed };
  uint32_t state = kFine, rank = 0;
};

/// Stands in a sum for "this rank failed": a NaN that neither arithmetic nor kPoison makes.
constexpr uint32_t kFailedSum = 0x7FE00000u, kRankBits = 0xFFFFFu;

bool says_failed(float first) {
  return (bits_of(first) & ~kRankBits) == kFailedSum;
}

nb::object view_of(const void* data, size_t bytes, int mode) {
  // CPython's own way takes no const; PyBUF_READ makes the view one that can't be written through.
  return nb::steal(PyMemoryView_FromMemory(static_cast<char*>(const_cast<void*>(data)),
                                           static_cast<Py_ssize_t>(bytes), mode));
}

nb::object view_of(std::span<const float> values) {
  return view_of(values.data(), values.size_bytes(), PyBUF_READ);
}

class PythonCodec final : public Codec {
 public:
  /// `calls`: a _Calls of hora.compression that lives as long as the process.
  PythonCodec(std::string name, nb::handle calls, Traits traits, Binding& binding, size_t bytes)
      : Codec(binding.extent),
        name_(std::move(name)),
        calls_(calls),
        traits_(traits),
        memory_(binding.memory),
        bytes_(bytes) {}

  Traits traits() const override {
    Traits traits = traits_;
    traits.unbiased = traits.unbiased && !memory_.feedback;
    traits.conserves = memory_.conserves();
    return traits;
  }
  size_t granule() const override { return whole_granule(extent()); }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  size_t payload_bytes(size_t count) const override {
    if (count == 0) return 0;
    if (count == extent().count()) return sizeof(Frame) + bytes_;
    const nb::gil_scoped_acquire locked;  // tests only: the granule is the whole tensor
    return sizeof(Frame) + nb::cast<size_t>(calls_.attr("payload_bytes")(count));
  }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    const size_t size = payload_bytes(piece.count);
    std::memset(payload, 0, size);
    const Source source = source_of(turn, piece, state, memory_);
    const bool second = turn.drawer == static_cast<uint64_t>(Drawer::kOwner);
    if (second && says_failed(piece.input[0]))
      return write(payload, {Frame::kFailed, bits_of(piece.input[0]) & kRankBits});
    if (poisoned(source, piece.count)) return write(payload, {Frame::kPoisoned, 0});
    float* asked = turn.workspace.floats(Workspace::kTransform, piece.count);
    read(source, piece.count, asked);
    const std::span<std::byte> body(payload + sizeof(Frame), size - sizeof(Frame));
    bool fine = call("encode", turn, [&] {
      return calls_.attr("encode")(view_of({asked, piece.count}),
                                   view_of(body.data(), body.size(), PyBUF_WRITE), step(turn));
    });
    if (fine && source.residual) fine = remember(turn, {asked, piece.count}, body, source.residual);
    if (fine) return;
    std::memset(payload, 0, size);
    write(payload, {Frame::kFailed, static_cast<uint32_t>(turn.step.rank)});
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t /*first*/,
                    std::span<float> sum, float scale) const override {
    if (payload.size() != payload_bytes(sum.size())) {
      return Status(Code::kCorrupt,
                    fmt::format("{}: payload has {} bytes for {} elements, not {}", name_,
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }
    if (sum.empty()) return {};
    Frame frame;
    std::memcpy(&frame, payload.data(), sizeof(frame));
    if (frame.state > Frame::kFailed || frame.rank > kRankBits)
      return Status(Code::kCorrupt, name_ + ": a payload with a damaged frame");
    if (says_failed(sum[0])) return {};  // the first to fail is named
    if (frame.state == Frame::kFine) {
      const std::span<float> decoded(turn.workspace.floats(Workspace::kSent, sum.size()),
                                     sum.size());
      if (decode(turn, payload.subspan(sizeof(Frame)), decoded)) {
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += scale * decoded[i];
        return {};
      }
      frame = {Frame::kFailed, static_cast<uint32_t>(turn.step.rank)};
    }
    std::fill(sum.begin(), sum.end(), float_of(kPoison));
    if (frame.state == Frame::kFailed) sum[0] = float_of(kFailedSum | frame.rank);
    return {};
  }

  Status judge(std::span<const float> sum) const override {
    if (sum.empty() || !says_failed(sum[0])) return {};
    const int rank = static_cast<int>(bits_of(sum[0]) & kRankBits);
    const std::lock_guard lock(mutex_);
    return Status(Code::kInvalidArgument,
                  fmt::format("compressor '{}' failed on rank {}: {}", name_, rank,
                              rank == failed_rank_ ? why_ : "that rank's own error says why"));
  }

 private:
  static void write(std::byte* payload, Frame frame) {
    std::memcpy(payload, &frame, sizeof(frame));
  }

  nb::object step(const Turn& turn) const {
    const bool second = turn.drawer == static_cast<uint64_t>(Drawer::kOwner);
    return nb::make_tuple(turn.step.step, turn.step.rank, turn.step.size, second, turn.step.seed,
                          extent().id);
  }

  /// Calls Python for something that gives None, or why it failed.
  template <class Function>
  bool call(const char* what, const Turn& turn, Function function) const {
    std::string why = "the interpreter has ended";
    if (nb::is_alive() && Py_IsInitialized()) {
      const nb::gil_scoped_acquire locked;
      try {
        const nb::object told = function();
        if (told.is_none()) return true;
        why = nb::cast<std::string>(told);
      } catch (const std::exception& error) {  // hora.compression itself, or no memory
        why = error.what();
      }
    }
    const std::lock_guard lock(mutex_);
    failed_rank_ = turn.step.rank;
    why_ = fmt::format("{}: {}", what, why);
    return false;
  }

  bool decode(const Turn& turn, std::span<const std::byte> body, std::span<float> values) const {
    std::fill(values.begin(), values.end(), 0.0f);
    return call("decode", turn, [&] {
      return calls_.attr("decode")(view_of(body.data(), body.size(), PyBUF_READ),
                                   view_of(values.data(), values.size_bytes(), PyBUF_WRITE),
                                   step(turn));
    });
  }

  /// What was asked and not sent. What has decoded to no number stays as it was.
  bool remember(const Turn& turn, std::span<const float> asked, std::span<const std::byte> body,
                float* residual) const {
    const std::span<float> sent(turn.workspace.floats(Workspace::kSent, asked.size()),
                                asked.size());
    if (!decode(turn, body, sent)) return false;
    for (size_t i = 0; i < asked.size(); ++i) {
      if (is_finite(sent[i])) residual[i] = asked[i] - sent[i];
    }
    return true;
  }

  const std::string name_;
  const nb::handle calls_;
  const Traits traits_;
  const Memory memory_;
  const size_t bytes_;  // of the whole tensor, as Python counts

  mutable std::mutex mutex_;  // guards the following: this rank's own last failure
  mutable int failed_rank_ = -1;
  mutable std::string why_;
};

/// What a stage's record points to.
struct Registered {
  std::string name, what;
  std::vector<std::tuple<std::string, std::string, std::string>> keys;
  nb::handle make;  // a strong reference that is never given back
};

std::unique_ptr<Codec> make_codec(const Registered& stage, Keys& keys, Binding& binding) {
  if (binding.inner || binding.code) {
    keys.refuse("a compressor written in Python makes the whole payload: nothing can follow it");
    return nullptr;
  }
  const nb::gil_scoped_acquire locked;
  try {
    nb::dict values;
    for (const auto& [name, standard, what] : stage.keys) {
      const std::string_view text = keys.text(name.c_str());
      values[name.c_str()] = nb::str(text.data(), text.size());
    }
    const nb::object calls = stage.make(values);
    if (nb::isinstance<nb::str>(calls)) {
      keys.refuse(nb::cast<std::string>(calls));
      return nullptr;
    }
    const auto flag = [&](const char* trait) { return nb::cast<bool>(calls.attr(trait)); };
    Traits traits{.unbiased = flag("unbiased"),
                  .contractive = flag("contractive"),
                  .exact_values = flag("exact_values"),
                  .sparse = flag("sparse"),
                  .draws = flag("random") ? Draws::kPrivate : Draws::kNone};
    const size_t count = binding.extent.count();
    const size_t bytes = count == 0 ? 0 : nb::cast<size_t>(calls.attr("payload_bytes")(count));
    return std::make_unique<PythonCodec>(stage.name, calls, traits, binding, bytes);
  } catch (const std::exception& error) {
    keys.refuse(error.what());
    return nullptr;
  }
}

/// keys: (name, standard, what).
void add_compressor(const std::string& name, const std::string& what,
                    std::vector<std::tuple<std::string, std::string, std::string>> keys,
                    nb::object make) {
  static std::mutex adding;
  static std::deque<Registered> all;  // elements stay where they are
  const Registered* stage = nullptr;
  {
    const std::lock_guard lock(adding);
    all.push_back({name, what, std::move(keys), make.release()});
    stage = &all.back();
  }
  Stage record{
      .name = stage->name.c_str(), .order = Order::kTransform, .what = stage->what.c_str()};
  for (const auto& [key, standard, meaning] : stage->keys)
    record.keys.push_back({key.c_str(), standard.c_str(), meaning.c_str()});
  record.make = [stage](Keys& values, Binding& binding) {
    return make_codec(*stage, values, binding);
  };
  check(add_stage(std::move(record)));
}

nb::list stage_names() {
  nb::list names;
  for (const Stage& stage : stages()) names.append(stage.name);
  for (const Preset& preset : presets()) names.append(preset.name);
  return names;
}

}  // namespace

void define_compressors(nb::module_& m) {
  m.def("add_compressor", &add_compressor, nb::arg("name"), nb::arg("what"), nb::arg("keys"),
        nb::arg("make"), "Makes a stage out of what hora.compression.register() was given.");
  m.def("stage_names", &stage_names, "Every name that a chain may use.");
  define_codec_trial(m);
}

}  // namespace hora
