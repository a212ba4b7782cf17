#include "frameworks/codec_trial.h"

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "compressors/chain.h"
#include "compressors/heap_workspace.h"
#include "frameworks/errors.h"
#include "ops/exchange_cost.h"

namespace nb = nanobind;

namespace hora {
namespace {

using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const std::byte> bytes_in(const nb::bytes& payload) {
  return {reinterpret_cast<const std::byte*>(payload.c_str()), payload.size()};
}

class CodecTrial {
 public:
  CodecTrial(const std::string& chain, size_t rows, size_t columns, uint64_t tensor, uint64_t seed)
      : config_(take(ChainConfig::parse(chain))) {
    if (config_.none())
      raise(Status(Code::kInvalidArgument, "'none' has no codec: values travel as they are"));
    if (config_.automatic())
      raise(Status(Code::kInvalidArgument,
                   "'auto' has no codec: it stands for another chain for each tensor; `hora plan "
                   "--compression auto` says which"));
    codec_ = take(config_.codec({tensor, rows, columns}));
    state_ = make_state(*codec_, 0, count());
    context_.seed = seed;
  }

  size_t count() const { return codec_->extent().count(); }
  std::string canonical() const { return config_.canonical(); }
  size_t payload_bytes() const { return codec_->payload_bytes(count()); }
  /// Of few ranks.
  std::string aggregation() const { return std::string(name_of(config_.aggregation(*codec_, 2))); }

  nb::dict traits() const {
    const Traits traits = codec_->traits();
    nb::dict result;
    result["linear"] = traits.linear;
    result["unbiased"] = traits.unbiased;
    result["contractive"] = traits.contractive;
    result["exact_values"] = traits.exact_values;
    result["sparse"] = traits.sparse;
    result["conserves"] = traits.conserves;
    result["varies"] = traits.varies;
    result["random"] = traits.draws != Draws::kNone;
    return result;
  }

  /// Bytes that a rank sends for the tensor in all rounds.
  size_t round_bytes() const {
    size_t bytes = 0;
    for (int round = 0; round < codec_->rounds(); ++round)
      bytes += codec_->round_bytes(round, count(), context_.size);
    return bytes;
  }

  size_t memory_bytes() const {
    size_t bytes = 0;
    for (const State::Slab& slab : state_.slabs) bytes += slab.spec.bytes();
    return bytes;
  }

  nb::bytes encode(const ConstFloats& values, uint64_t step, int rank, int size) {
    if (values.size() != count()) refuse_size("values", values.size());
    asked_.assign(values.data(), values.data() + values.size());
    context_.step = step;
    context_.rank = rank;
    context_.size = size;
    // Beyond the end a pattern, which an encoder that writes too much destroys.
    constexpr std::byte kPattern{0xA5};
    std::vector<std::byte> payload(payload_bytes() + kBeyond, kPattern);
    codec_->encode(turn(), {asked_.data(), 0, asked_.size()}, state_, payload.data());
    for (size_t i = payload_bytes(); i < payload.size(); ++i) {
      if (payload[i] != kPattern)
        raise(Status(Code::kInternal, "encode wrote more than payload_bytes() promises"));
    }
    payload.resize(payload_bytes());
    return nb::bytes(payload.data(), codec_->used_bytes(payload, count()));
  }

  /// Where the payload that `payload` begins with ends.
  size_t used_bytes(const nb::bytes& payload) const {
    return codec_->used_bytes(bytes_in(payload), count());
  }

  /// Adds `scale` times what `payload` says. ValueError: it was refused, or the codec has failed.
  void decode_add(const nb::bytes& payload, const Floats& sum, float scale) {
    if (sum.size() != count()) refuse_size("sum", sum.size());
    const std::span<float> out(sum.data(), sum.size());
    Status status = codec_->decode_add(turn(), bytes_in(payload), 0, out, scale);
    if (status.ok()) status = codec_->judge(out);
    if (!status.ok()) raise(Status(Code::kInvalidArgument, status.message()));
  }

  /// The whole exchange of a single rank: all rounds, and memories are settled.
  void finish(const nb::bytes& payload, const Floats& result) {
    if (!codec_->traits().linear) return decode_add(payload, result, 1);
    if (result.size() != count()) refuse_size("result", result.size());
    const Piece piece{asked_.data(), 0, asked_.size()};
    std::vector<std::byte> outcome(bytes_in(payload).begin(), bytes_in(payload).end());
    for (int round = 1; round < codec_->rounds(); ++round) {
      std::vector<std::byte> next(codec_->round_bytes(round, count(), context_.size));
      codec_->next(turn(), piece, state_, outcome.data(), next.data());
      outcome = std::move(next);
    }
    check(codec_->finish(turn(), piece, state_, outcome, result.data(), 1));
  }

  /// Seconds for each element to encode, decode and settle (ops/exchange_cost.h). `now` gives
  /// nanoseconds.
  nb::tuple measure(const nb::callable& now, double seconds) const {
    const CodecSpeed speed = take(measure_speed(
        *codec_, [&] { return nb::cast<int64_t>(now()); }, static_cast<int64_t>(seconds * 1e9)));
    return nb::make_tuple(speed.encode, speed.decode, speed.settle);
  }

  /// Seconds that the cost model expects of the tensor's exchange.
  double predicted_seconds(const Topology& topology, const CodecSpeed& speed) const {
    const int ranks = static_cast<int>(topology.ranks());
    return exchange_cost(topology, config_.aggregation(*codec_, ranks), codec_.get(), speed,
                         count())
        .seconds();
  }

  void take_back(const nb::bytes& payload) {
    codec_->take_back(turn(), {nullptr, 0, count()}, state_, bytes_in(payload));
  }

  /// What is owed, written to `values`; False if the chain remembers nothing.
  bool residual(const Floats& values) {
    State::Slab* const owed = state_.slab("residual");
    if (!owed) return false;
    if (values.size() != count()) refuse_size("values", values.size());
    const std::vector<float> wide = owed->wide();
    std::copy_n(wide.data(), count(), values.data());
    return true;
  }

 private:
  static constexpr size_t kBeyond = 64;

  Turn turn() { return {context_, static_cast<uint64_t>(context_.rank), workspace_}; }

  [[noreturn]] void refuse_size(const char* what, size_t size) const {
    raise(Status(Code::kInvalidArgument, std::string(what) + " has " + std::to_string(size) +
                                             " elements, the tensor " + std::to_string(count())));
  }

  const ChainConfig config_;
  std::unique_ptr<Codec> codec_;
  State state_;
  StepContext context_;
  HeapWorkspace workspace_;
  std::vector<float> asked_;  // of the last encode
};

/// Hosts of one rank each, with a link of so many bytes per second.
Topology topology_of(size_t hosts, double bandwidth) {
  Topology topology{.hosts = hosts, .inside = kUsualInside, .across = kUsualAcross};
  topology.across.bandwidth = bandwidth;
  return topology;
}

double dense_seconds(size_t hosts, double bandwidth, size_t count) {
  return exchange_cost(topology_of(hosts, bandwidth), Aggregation::kDense, nullptr, {}, count)
      .seconds();
}

}  // namespace

void define_codec_trial(nb::module_& m) {
  m.def("dense_seconds", &dense_seconds, nb::arg("hosts"), nb::arg("bandwidth"), nb::arg("count"),
        "What the cost model expects of an exchange of float32 as it is.");
  nb::class_<CodecTrial>(m, "CodecTrial", "One tensor's codec and memory, without an engine.")
      .def(nb::init<const std::string&, size_t, size_t, uint64_t, uint64_t>(), nb::arg("chain"),
           nb::arg("rows"), nb::arg("columns"), nb::arg("tensor") = 5, nb::arg("seed") = 42)
      .def_prop_ro("count", &CodecTrial::count)
      .def_prop_ro("canonical", &CodecTrial::canonical)
      .def_prop_ro("aggregation", &CodecTrial::aggregation)
      .def_prop_ro("traits", &CodecTrial::traits)
      .def_prop_ro("payload_bytes", &CodecTrial::payload_bytes)
      .def_prop_ro("round_bytes", &CodecTrial::round_bytes)
      .def_prop_ro("memory_bytes", &CodecTrial::memory_bytes)
      .def("encode", &CodecTrial::encode, nb::arg("values"), nb::arg("step") = 0,
           nb::arg("rank") = 0, nb::arg("size") = 1)
      .def("used_bytes", &CodecTrial::used_bytes, nb::arg("payload"))
      .def("decode_add", &CodecTrial::decode_add, nb::arg("payload"), nb::arg("sum"),
           nb::arg("scale") = 1)
      .def("finish", &CodecTrial::finish, nb::arg("payload"), nb::arg("result"))
      .def("measure", &CodecTrial::measure, nb::arg("now"), nb::arg("seconds"))
      .def(
          "predicted_seconds",
          [](const CodecTrial& trial, size_t hosts, double bandwidth, double encode, double decode,
             double settle) {
            return trial.predicted_seconds(topology_of(hosts, bandwidth), {encode, decode, settle});
          },
          nb::arg("hosts"), nb::arg("bandwidth"), nb::arg("encode"), nb::arg("decode"),
          nb::arg("settle"))
      .def("take_back", &CodecTrial::take_back, nb::arg("payload"))
      .def("residual", &CodecTrial::residual, nb::arg("values"));
}

}  // namespace hora
