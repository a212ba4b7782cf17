#pragma once

#include <string>

#include <nanobind/nanobind.h>

#include "frameworks/errors.h"
#include "hora/request.h"

namespace hora {

/// The enumerator of a code that Python gave; ValueError if there is none.
template <class Enum>
Enum checked(unsigned code, unsigned last, const char* what) {
  if (code > last) {
    raise(Status(Code::kInvalidArgument, std::string(what) + " " + std::to_string(code) +
                                             " does not exist; the last one is " +
                                             std::to_string(last)));
  }
  return static_cast<Enum>(code);
}

inline DType dtype_of(unsigned code) {
  return checked<DType>(code, kDTypes - 1, "dtype");
}

inline void assign_shape(Shape& shape, nanobind::handle tuple) {
  shape.clear();
  for (const nanobind::handle dim : nanobind::cast<nanobind::tuple>(tuple)) {
    shape.push_back(PyLong_AsLongLong(dim.ptr()));
    if (shape.back() < 0) {
      if (PyErr_Occurred()) throw nanobind::python_error();
      raise(Status(Code::kInvalidArgument, "a dimension of a shape is negative"));
    }
  }
}

inline void assign_tensor(Tensor& tensor, uintptr_t data, DType dtype, nanobind::handle shape) {
  tensor.data = reinterpret_cast<void*>(data);
  tensor.dtype = dtype;
  tensor.device = Device{};
  assign_shape(tensor.shape, shape);
}

/// What a request says besides its tensors.
struct Terms {
  unsigned op, reduce;
  SetId set;
  Rank root;
  double prescale, postscale;
  int16_t priority;
  uint16_t domain;
};

inline void assign_terms(Request& request, const Terms& terms, nanobind::str name,
                         nanobind::str chain) {
  request.op = checked<Op>(terms.op, static_cast<unsigned>(Op::kJoin), "operation");
  request.reduce =
      checked<ReduceOp>(terms.reduce, static_cast<unsigned>(ReduceOp::kAdasum), "reduction");
  request.set = terms.set;
  request.root = terms.root;
  request.prescale = terms.prescale;
  request.postscale = terms.postscale;
  request.priority = terms.priority;
  request.domain = terms.domain;
  request.name = name.c_str();
  request.chain = chain.c_str();
}

}  // namespace hora
