#include "tests/support/data.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "hora/status.h"

namespace hora::support {
namespace {

// Element types for which C++ has no name.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};
struct Bool {
  uint8_t value;
};

template <class Visit>
auto visit(DType dtype, Visit with) {
  switch (dtype) {
    case DType::kUInt8:
      return with(uint8_t{});
    case DType::kInt8:
      return with(int8_t{});
    case DType::kInt16:
      return with(int16_t{});
    case DType::kInt32:
      return with(int32_t{});
    case DType::kInt64:
      return with(int64_t{});
    case DType::kFloat16:
      return with(Half{});
    case DType::kBFloat16:
      return with(BFloat{});
    case DType::kFloat32:
      return with(float{});
    case DType::kFloat64:
      return with(double{});
    case DType::kBool:
      return with(Bool{});
  }
  return with(uint8_t{});
}

template <class T>
T get(std::span<const std::byte> bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void put(Bytes& bytes, size_t index, T value) {
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
}

template <class T>
T of_number(double number) {
  if constexpr (std::is_same_v<T, Half>) {
    return {narrow_half(static_cast<float>(number))};
  } else if constexpr (std::is_same_v<T, BFloat>) {
    return {narrow_bfloat(static_cast<float>(number))};
  } else if constexpr (std::is_same_v<T, Bool>) {
    return {static_cast<uint8_t>(number != 0)};
  } else {
    return static_cast<T>(number);
  }
}

// Where conversions and comparisons go wrong.
const float kWildFloats[] = {0.0f,
                             -0.0f,
                             1.0f,
                             -1.0f,
                             1.0009765625f,
                             1.00390625f,
                             65504.0f,
                             65519.0f,
                             65520.0f,
                             -65536.0f,
                             6.1035156e-05f,
                             6.0975552e-05f,
                             5.9604645e-08f,
                             2.9802322e-08f,
                             -2.9802326e-08f,
                             1e-45f,
                             -1.1754942e-38f,
                             1.17549435e-38f,
                             std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             std::bit_cast<float>(0xFF812345u)};

template <class T>
T make_one(Values values, Random& random) {
  const uint64_t bits = random.next();
  if constexpr (std::is_same_v<T, Bool>) return {static_cast<uint8_t>(bits >> 20 & 1)};
  if (values == Values::kSmall) return of_number<T>(static_cast<double>(bits % 3 + 1));
  constexpr bool kFloat =
      std::is_floating_point_v<T> || std::is_same_v<T, Half> || std::is_same_v<T, BFloat>;
  if constexpr (kFloat) {
    if (values == Values::kPlain) {
      const double size = std::ldexp(static_cast<double>(bits >> 12), -52) + 0.25;
      return of_number<T>((bits & 1) != 0 ? size : -size);
    }
    if (bits % 2 == 0) return of_number<T>(kWildFloats[(bits >> 8) % std::size(kWildFloats)]);
  }
  T any{};
  std::memcpy(&any, &bits, sizeof(T));
  return any;
}

// --- The definition of a reduction --------------------------------------------------------------

template <class F>
F extreme(F a, F b, bool least) {
  if constexpr (std::is_floating_point_v<F>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<F>::quiet_NaN();
    if (a == b) return std::signbit(a) == least ? a : b;
  }
  return least == (a < b) ? a : b;
}

template <class F>
F reduce_floats(const Reduction& reduction, const std::vector<F>& values) {
  const F before = static_cast<F>(reduction.prescale);
  const double n = reduction.op == ReduceOp::kAverage ? static_cast<double>(values.size()) : 1;
  F sum = values[0] * before;
  for (size_t r = 1; r < values.size(); ++r) {
    const F next = values[r] * before;
    switch (reduction.op) {
      case ReduceOp::kMin:
        sum = extreme(sum, next, true);
        break;
      case ReduceOp::kMax:
        sum = extreme(sum, next, false);
        break;
      case ReduceOp::kProduct:
        sum *= next;
        break;
      default:
        sum += next;
        break;
    }
  }
  sum *= static_cast<F>(reduction.postscale / n);
  return std::isnan(sum) ? std::numeric_limits<F>::quiet_NaN() : sum;
}

template <class T>
T scale(T value, double factor) {
  if (factor == 1) return value;
  const double product = std::trunc(static_cast<double>(value) * factor);
  if (std::isnan(product)) return 0;
  if (product >= std::ldexp(1.0, std::numeric_limits<T>::digits)) {
    return std::numeric_limits<T>::max();
  }
  if (product <= static_cast<double>(std::numeric_limits<T>::min())) {
    return std::numeric_limits<T>::min();
  }
  return static_cast<T>(product);
}

template <class T>
T reduce_integers(const Reduction& reduction, const std::vector<T>& values) {
  T sum = scale(values[0], reduction.prescale);
  for (size_t r = 1; r < values.size(); ++r) {
    const T next = scale(values[r], reduction.prescale);
    const auto a = static_cast<uint64_t>(sum), b = static_cast<uint64_t>(next);
    switch (reduction.op) {
      case ReduceOp::kMin:
        sum = std::min(sum, next);
        break;
      case ReduceOp::kMax:
        sum = std::max(sum, next);
        break;
      case ReduceOp::kProduct:
        sum = static_cast<T>(a * b);
        break;
      default:
        sum = static_cast<T>(a + b);
        break;
    }
  }
  if (reduction.op == ReduceOp::kAverage) {
    sum = static_cast<T>(int64_t{sum} / static_cast<int64_t>(values.size()));
  }
  return scale(sum, reduction.postscale);
}

Bool reduce_bools(ReduceOp op, const std::vector<Bool>& values) {
  const auto is_set = [](Bool b) { return b.value != 0; };
  const bool any = op == ReduceOp::kSum || op == ReduceOp::kMax;
  return {static_cast<uint8_t>(any ? std::any_of(values.begin(), values.end(), is_set)
                                   : std::all_of(values.begin(), values.end(), is_set))};
}

template <class T>
T reduce_one(const Reduction& reduction, const std::vector<T>& values) {
  if constexpr (std::is_same_v<T, Bool>) {
    return reduce_bools(reduction.op, values);
  } else if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat>) {
    constexpr bool kHalf = std::is_same_v<T, Half>;
    std::vector<float> wide;
    for (const T value : values) {
      wide.push_back(kHalf ? widen_half(value.bits) : widen_bfloat(value.bits));
    }
    const float sum = reduce_floats(reduction, wide);
    return {kHalf ? narrow_half(sum) : narrow_bfloat(sum)};
  } else if constexpr (std::is_floating_point_v<T>) {
    return reduce_floats(reduction, values);
  } else {
    return reduce_integers(reduction, values);
  }
}

}  // namespace

uint64_t Random::next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Bytes make_values(DType dtype, Values values, size_t count, uint64_t seed) {
  return visit(dtype, [&]<class T>(T) {
    Random random(seed * 1000003 + static_cast<uint64_t>(dtype));
    Bytes bytes(count * sizeof(T));
    for (size_t i = 0; i < count; ++i) put(bytes, i, make_one<T>(values, random));
    return bytes;
  });
}

float widen_half(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float sign = half >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) {
    return mantissa ? std::numeric_limits<float>::quiet_NaN()
                    : sign * std::numeric_limits<float>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

float widen_bfloat(uint16_t bfloat) {
  return std::bit_cast<float>(uint32_t{bfloat} << 16);
}

// Counts quanta: 2^-24 below the normal numbers, 1/1024 of the leading bit above.
uint16_t narrow_half(float value) {
  if (std::isnan(value)) return 0x7E00;
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double size = std::fabs(static_cast<double>(value));
  if (size >= 65520) return static_cast<uint16_t>(sign | 0x7C00);
  int exponent = -14;
  if (size >= std::ldexp(1.0, -14)) exponent = std::ilogb(size);
  // 1024 quanta of the lowest normal exponent are just its first number: carries come out right.
  const auto quanta = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + quanta));
}

uint16_t narrow_bfloat(float value) {
  if (std::isnan(value)) return 0x7FC0;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t down = bits >> 16, rest = bits & 0xFFFF;
  const bool up = rest > 0x8000 || (rest == 0x8000 && down % 2 == 1);
  return static_cast<uint16_t>(down + up);
}

double value_at(DType dtype, std::span<const std::byte> bytes, size_t index) {
  return visit(dtype, [&]<class T>(T) -> double {
    const T value = get<T>(bytes, index);
    if constexpr (std::is_same_v<T, Half>) {
      return widen_half(value.bits);
    } else if constexpr (std::is_same_v<T, BFloat>) {
      return widen_bfloat(value.bits);
    } else if constexpr (std::is_same_v<T, Bool>) {
      return value.value;
    } else {
      return static_cast<double>(value);
    }
  });
}

Bytes reduce_by_definition(const Reduction& reduction, const std::vector<Bytes>& inputs) {
  return visit(reduction.dtype, [&]<class T>(T) {
    Bytes result(inputs[0].size());
    std::vector<T> values(inputs.size());
    for (size_t i = 0; i < result.size() / sizeof(T); ++i) {
      for (size_t r = 0; r < inputs.size(); ++r) values[r] = get<T>(inputs[r], i);
      put(result, i, reduce_one<T>(reduction, values));
    }
    return result;
  });
}

std::string difference(DType dtype, std::span<const std::byte> got,
                       std::span<const std::byte> wanted) {
  if (got.size() != wanted.size()) return "sizes differ";
  const size_t width = bytes_of(dtype);
  const auto [a, b] = std::mismatch(got.begin(), got.end(), wanted.begin());
  if (a == got.end()) return "";
  const size_t index = static_cast<size_t>(a - got.begin()) / width;
  return std::string(name_of(dtype)) + " element " + std::to_string(index) + " of " +
         std::to_string(got.size() / width) + " is " + std::to_string(value_at(dtype, got, index)) +
         ", not " + std::to_string(value_at(dtype, wanted, index)) +
         " (or differs in a hidden bit)";
}

std::string distance(DType dtype, std::span<const std::byte> got, std::span<const std::byte> wanted,
                     double relative) {
  if (!is_float(dtype) || got.size() != wanted.size()) return difference(dtype, got, wanted);
  for (size_t i = 0; i < got.size() / bytes_of(dtype); ++i) {
    const double a = value_at(dtype, got, i), b = value_at(dtype, wanted, i);
    if (!(std::fabs(a - b) <= relative * std::max(1.0, std::fabs(b)))) {
      return std::string(name_of(dtype)) + " element " + std::to_string(i) + " is " +
             std::to_string(a) + ", too far from " + std::to_string(b);
    }
  }
  return "";
}

Pieces::Pieces(std::span<const std::byte> content, size_t width, size_t cuts, Random& random)
    : width_(width) {
  const size_t count = content.size() / width;
  std::vector<size_t> ends = {count};
  for (size_t i = 0; i < cuts; ++i) ends.push_back(random.below(count + 1));
  std::sort(ends.begin(), ends.end());
  memory_.assign(content.size() + (ends.size() + 1) * kGuard, kPattern);
  size_t begin = 0;
  std::byte* to = memory_.data() + kGuard;
  for (const size_t end : ends) {
    const auto part = content.subspan(begin * width, (end - begin) * width);
    std::copy(part.begin(), part.end(), to);
    segments_.push_back({to, end - begin});
    to += part.size() + kGuard;
    begin = end;
  }
}

Bytes Pieces::content() const {
  Bytes all;
  for (const Segment& segment : segments_) {
    all.insert(all.end(), segment.data, segment.data + segment.count * width_);
  }
  return all;
}

bool Pieces::guards_intact() const {
  const auto intact = [](const std::byte* guard) {
    return std::all_of(guard, guard + kGuard, [](std::byte b) { return b == kPattern; });
  };
  return intact(memory_.data()) &&
         std::all_of(segments_.begin(), segments_.end(),
                     [&](const Segment& s) { return intact(s.data + s.count * width_); });
}

}  // namespace hora::support
