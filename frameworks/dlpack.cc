#include "frameworks/dlpack.h"

#include <algorithm>
#include <array>

namespace nb = nanobind;

namespace hora {
namespace {

constexpr const char* kAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kCapsule = "dlpack_exchange_api";
constexpr uint32_t kMajor = 1;

struct Known {
  nb::dlpack::dtype_code code;
  uint8_t bits;
  DType dtype;
};
constexpr std::array kKnown{
    Known{nb::dlpack::dtype_code::Float, 32, DType::kFloat32},
    Known{nb::dlpack::dtype_code::Bfloat, 16, DType::kBFloat16},
    Known{nb::dlpack::dtype_code::Float, 16, DType::kFloat16},
    Known{nb::dlpack::dtype_code::Float, 64, DType::kFloat64},
    Known{nb::dlpack::dtype_code::Int, 64, DType::kInt64},
    Known{nb::dlpack::dtype_code::Int, 32, DType::kInt32},
    Known{nb::dlpack::dtype_code::Int, 16, DType::kInt16},
    Known{nb::dlpack::dtype_code::Int, 8, DType::kInt8},
    Known{nb::dlpack::dtype_code::UInt, 8, DType::kUInt8},
    Known{nb::dlpack::dtype_code::Bool, 8, DType::kBool},
};

bool contiguous(const nb::dlpack::dltensor& tensor) {
  if (!tensor.strides) return true;
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

}  // namespace

const DlpackExchange* DlpackExchange::of(nb::handle type) {
  const nb::object capsule = nb::getattr(type, kAttribute, nb::none());
  if (!PyCapsule_IsValid(capsule.ptr(), kCapsule)) return nullptr;
  const auto* table =
      static_cast<const DlpackExchange*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
  while (table && table->major != kMajor) table = table->previous;
  return table && table->view ? table : nullptr;
}

std::optional<DlpackView> view_of(const DlpackExchange& exchange, nb::handle tensor) {
  nb::dlpack::dltensor found;
  if (exchange.view(tensor.ptr(), &found) != 0) {
    PyErr_Clear();
    return {};
  }
  if (found.device.device_type != nb::device::cpu::value || found.dtype.lanes != 1 ||
      !contiguous(found))
    return {};
  const auto known = std::find_if(kKnown.begin(), kKnown.end(), [&](const Known& each) {
    return static_cast<uint8_t>(each.code) == found.dtype.code && each.bits == found.dtype.bits;
  });
  if (known == kKnown.end()) return {};
  return DlpackView{static_cast<std::byte*>(found.data) + found.byte_offset, known->dtype,
                    found.ndim, found.shape};
}

}  // namespace hora
