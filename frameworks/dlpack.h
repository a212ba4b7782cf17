#pragma once

#include <cstdint>
#include <optional>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "hora/tensor.h"

namespace hora {

/// The part that we need of the function table by which a framework shows its tensors without an
/// attribute's cost (DLPack 1.3, `__dlpack_c_exchange_api__` of a tensor's type). Public layout.
struct DlpackExchange {
  uint32_t major, minor;
  const DlpackExchange* previous;
  void* allocate;
  void* to_managed;
  void* from_managed;
  /// Fills a view whose shape and strides live as long as the tensor is not changed. Not 0: a
  /// Python error is set. May be null.
  int (*view)(void* tensor, nanobind::dlpack::dltensor* out);
  void* current_stream;

  /// The table of `type`, or null if its framework (PyTorch before 2.10) has none.
  static const DlpackExchange* of(nanobind::handle type);
};

/// A tensor in host memory whose elements lie one after the other.
struct DlpackView {
  void* data = nullptr;
  DType dtype = DType::kUInt8;
  int dims = 0;
  const int64_t* shape = nullptr;
};

/// Nothing if the tensor is of another kind. Clears Python errors.
std::optional<DlpackView> view_of(const DlpackExchange& exchange, nanobind::handle tensor);

}  // namespace hora
