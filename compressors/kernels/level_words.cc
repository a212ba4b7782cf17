// Codes of a scale that ranks share, packed so that sums of words are sums of codes.

#include "compressors/level_words.h"

namespace hora::HORA_ISA {
namespace {

/// Visits (first element, how many, words, shift) of each row; whole rows are compiled for
/// themselves.
template <class Words, class Visit>
HORA_HD void each_row(const LevelBlock& block, Words* words, Visit visit) {
  words += block.row / block.layout.fields * kLanes;
  auto field = static_cast<uint32_t>(block.row % block.layout.fields);
  const size_t whole = block.count / kLanes * kLanes;
  for (size_t at = 0; at < block.count; at += kLanes) {
    const uint32_t shift = field * block.layout.width;
    if (at < whole)
      visit(at, kLanes, words, shift);
    else
      visit(at, static_cast<uint32_t>(block.count - at), words, shift);
    if (++field < block.layout.fields) continue;
    field = 0;
    words += kLanes;
  }
}

/// One row's codes.
template <bool kRandom>
HORA_HD void encode_row(const LevelJob& job, size_t at, uint32_t n, int32_t* __restrict codes) {
  const float* from = job.from + at;
  const Key key = key_at(job.key, job.first + at);
  const auto index = static_cast<uint32_t>(job.first + at);
  const float scale = job.scale, inverse = job.inverse;
  const auto zero = static_cast<float>(job.block.side);
  const auto most = static_cast<float>(2 * job.block.side);
  for (uint32_t k = 0; k < n; ++k) {
    const float dither = kRandom ? unit_interval(random_bits(key, index + k)) : 0.5f;
    const float place = scale * from[k] * inverse + zero + dither;
    // A peer that lies about its maximum must not bring codes that do not fit.
    const float positive = place > 0 ? place : 0.0f;
    codes[k] = static_cast<int32_t>(positive < most ? positive : most);
  }
}

template <bool kRandom>
void write_as(const LevelJob& job, uint64_t* words) {
  each_row(job.block, words, [&](size_t at, uint32_t n, uint64_t* to, uint32_t shift) {
    alignas(64) int32_t codes[kLanes];
    encode_row<kRandom>(job, at, n, codes);
    for (uint32_t k = 0; k < n; ++k) to[k] |= uint64_t{static_cast<uint32_t>(codes[k])} << shift;
  });
}

void write(const LevelJob& job, uint64_t* words) {
  return job.random ? write_as<true>(job, words) : write_as<false>(job, words);
}

template <bool kRandom>
void take_as(const LevelJob& job, float* residual) {
  const float step = job.block.step;
  const int32_t side = job.block.side;
  for (size_t at = 0; at < job.block.count; at += kLanes) {
    const size_t left = job.block.count - at;
    const uint32_t n = left < kLanes ? static_cast<uint32_t>(left) : kLanes;
    alignas(64) int32_t codes[kLanes];
    encode_row<kRandom>(job, at, n, codes);
    for (uint32_t k = 0; k < n; ++k) residual[at + k] -= static_cast<float>(codes[k] - side) * step;
  }
}

void take(const LevelJob& job, float* residual) {
  return job.random ? take_as<true>(job, residual) : take_as<false>(job, residual);
}

void add(const LevelBlock& block, const uint64_t* words, int ranks, float scale, float* to) {
  const uint64_t mask = (uint64_t{1} << block.layout.width) - 1;
  const int32_t zero = block.side * ranks;
  each_row(block, words, [&](size_t at, uint32_t n, const uint64_t* from, uint32_t shift) {
    float* __restrict sum = to + at;
    for (uint32_t k = 0; k < n; ++k) {
      const int32_t levels = static_cast<int32_t>(from[k] >> shift & mask) - zero;
      sum[k] += scale * (static_cast<float>(levels) * block.step);
    }
  });
}

constexpr LevelKernels kKernels = {BlockKernels::Isa::HORA_ISA, write, take, add};
[[maybe_unused]] const bool kRegistered = register_kernels(&kKernels);

}  // namespace
}  // namespace hora::HORA_ISA
