#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hora/tensor.h"
#include "ops/backend.h"

namespace hora::support {

using Bytes = std::vector<std::byte>;

/// A small reproducible source of randomness (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();
  size_t below(size_t end) { return end == 0 ? 0 : static_cast<size_t>(next() % end); }

 private:
  uint64_t state_;
};

enum class Values {
  kSmall,  ///< integers from 1 to 3 (bool: 0 or 1): sums and products of few are exact in any order
  kPlain,  ///< floats of moderate size, any integers
  kWild,   ///< any bits, and often the values where mistakes are made: zeros, denormals, NaN, ...
};

/// `count` elements that depend on the arguments only, so that every rank can make every rank's.
Bytes make_values(DType dtype, Values values, size_t count, uint64_t seed);

/// Scalar conversions, written apart from the kernels'.
float widen_half(uint16_t half);
float widen_bfloat(uint16_t bfloat);
uint16_t narrow_half(float value);
uint16_t narrow_bfloat(float value);

/// Element `index` of `bytes` as a double, for tolerances.
double value_at(DType dtype, std::span<const std::byte> bytes, size_t index);

/// What struct Reduction defines, one element after another.
Bytes reduce_by_definition(const Reduction& reduction, const std::vector<Bytes>& inputs);

/// Empty if the two are equal; else the first difference.
std::string difference(DType dtype, std::span<const std::byte> got,
                       std::span<const std::byte> wanted);

/// Empty if floats agree to `relative` (and integers exactly).
std::string distance(DType dtype, std::span<const std::byte> got, std::span<const std::byte> wanted,
                     double relative);

/// A buffer cut at random into segments (some empty) with guards between them.
class Pieces {
 public:
  Pieces(std::span<const std::byte> content, size_t width, size_t cuts, Random& random);
  std::span<const Segment> segments() const { return segments_; }
  Bytes content() const;
  bool guards_intact() const;

 private:
  static constexpr size_t kGuard = 24;
  static constexpr std::byte kPattern{0xA5};
  size_t width_;
  Bytes memory_;
  std::vector<Segment> segments_;
};

}  // namespace hora::support
