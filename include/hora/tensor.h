#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace hora {

/// Element types. The numbers are on the wire and in the C ABI; append only.
enum class DType : uint8_t {
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kBool,
};
constexpr size_t kDTypes = 10;

constexpr size_t bytes_of(DType dtype) {
  constexpr size_t kBytes[kDTypes] = {1, 1, 2, 4, 8, 2, 2, 4, 8, 1};
  return kBytes[static_cast<size_t>(dtype)];
}
std::string_view name_of(DType dtype);  ///< "float32"
constexpr bool is_float(DType dtype) {
  return dtype >= DType::kFloat16 && dtype <= DType::kFloat64;
}

enum class DeviceKind : uint8_t { kHost, kCuda };

/// Where memory lives. `index` is the CUDA ordinal; 0 for the host.
struct Device {
  DeviceKind kind = DeviceKind::kHost;
  int32_t index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

using Shape = std::vector<int64_t>;

constexpr size_t count_of(const Shape& shape) {
  size_t count = 1;
  for (const int64_t dim : shape) count *= static_cast<size_t>(dim);
  return count;
}

/// Contiguous, row-major memory that somebody else owns. A scalar has an empty shape and one
/// element.
struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::kFloat32;
  Device device;

  size_t count() const { return count_of(shape); }
  size_t bytes() const { return count() * bytes_of(dtype); }
};

}  // namespace hora
