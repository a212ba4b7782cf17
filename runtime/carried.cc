#include "runtime/carried.h"

#include <algorithm>
#include <cstring>

#include "ops/float_mode.h"
#include "ops/kernels/reduce.h"

namespace hora {
namespace {

size_t bytes_of(const Signature& signature) {
  return static_cast<size_t>(count_of(signature)) * hora::bytes_of(signature.dtype);
}

size_t bytes_from(const Signature& signature, Rank rank) {
  const bool gives = signature.op != Op::kBroadcast || rank == signature.root;
  return gives ? bytes_of(signature) : 0;
}

}  // namespace

bool is_carried(const Signature& signature, const Options& options, int world) {
  const bool reduces = signature.op == Op::kAllreduce && signature.reduce != ReduceOp::kAdasum;
  if (!reduces && signature.op != Op::kBroadcast) return false;
  if (signature.domain != 0 || !signature.chain.empty() || signature.device != DeviceKind::kHost)
    return false;
  const uint64_t most = options.carry_bytes / static_cast<uint64_t>(world);
  return options.carry_bytes > 0 && count_of(signature) <= most / hora::bytes_of(signature.dtype);
}

void append_values(std::string& values, Rank rank, std::string_view bytes) {
  Writer w(values);
  w.v(static_cast<uint64_t>(rank)), w.s(bytes);
}

bool are_values(std::string_view values, const Signature& signature,
                const std::vector<Rank>& from) {
  bool right = true;
  const bool whole = for_each_value(values, [&](Rank rank, std::string_view bytes) {
    right &= std::binary_search(from.begin(), from.end(), rank) &&
             bytes.size() == bytes_from(signature, rank);
  });
  return whole && right;
}

void pack(const Request& request, Rank rank, std::string& bytes) {
  bytes.clear();
  if (request.op == Op::kBroadcast && request.root != rank) return;
  for (const Tensor& tensor : request.inputs)
    bytes.append(static_cast<const char*>(tensor.data), tensor.bytes());
}

Status CarriedResult::write(const Request& request, const Signature& signature,
                            const std::vector<Rank>& ranks, std::string_view values) {
  const Status malformed(Code::kCorrupt, "the values that came with the agreement are malformed");
  if (!are_values(values, signature, ranks)) return malformed;
  const size_t each = bytes_of(signature), width = hora::bytes_of(signature.dtype);
  if (each == 0) return {};
  memory_.assign((ranks.size() + 1) * each, std::byte{});
  inputs_.assign(ranks.size(), nullptr);
  std::byte* result = &memory_[ranks.size() * each];
  bool twice = false;
  for_each_value(values, [&](Rank rank, std::string_view bytes) {
    const auto member =
        static_cast<size_t>(std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin());
    twice |= inputs_[member] != nullptr;
    inputs_[member] = &memory_[member * each];
    std::byte* const to = signature.op == Op::kBroadcast ? result : &memory_[member * each];
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
  });
  if (twice) return malformed;
  for (size_t i = 0; i < ranks.size(); ++i) inputs_[i] = &memory_[i * each];
  if (signature.op == Op::kAllreduce) {
    const FloatMode mode;
    reduce({signature.dtype, signature.reduce, signature.prescale, signature.postscale}, inputs_,
           {&result, 1}, each / width);
  }
  for (const Tensor& output : request.outputs) {
    if (output.bytes() == 0) continue;
    std::memcpy(output.data, result, output.bytes());
    result += output.bytes();
  }
  return {};
}

}  // namespace hora
