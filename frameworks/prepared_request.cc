#include "frameworks/prepared_request.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "frameworks/errors.h"

namespace nb = nanobind;

namespace hora {
namespace {

// Larger ones the framework copies, without the interpreter's lock and perhaps with more threads.
constexpr size_t kCopiedHere = 256 << 10;

/// Is the tensor's boolean attribute, or what its method without arguments gives, false?
bool is_false(nb::handle tensor, const char* attribute, bool method) {
  nb::object value = nb::steal(PyObject_GetAttrString(tensor.ptr(), attribute));
  if (value.is_valid() && method) value = nb::steal(PyObject_CallNoArgs(value.ptr()));
  if (!value.is_valid()) PyErr_Clear();
  return value.ptr() == Py_False;
}

}  // namespace

PreparedRequest::PreparedRequest(std::shared_ptr<Owner> owner, const Terms& terms, unsigned dtype,
                                 nb::tuple shape, nb::str name, nb::str chain)
    : owner_(std::move(owner)) {
  assign_terms(request_, terms, name, chain);
  request_.inputs.resize(1);
  assign_tensor(request_.inputs[0], 0, dtype_of(dtype), shape);
  request_.outputs = request_.inputs;
}

Handle PreparedRequest::submit(uintptr_t data, float lr, uint64_t step) {
  request_.inputs[0].data = request_.outputs[0].data = reinterpret_cast<void*>(data);
  request_.lr = lr;
  request_.step = step;
  return take(owner_->use().submit(request_));
}

void PreparedRequest::set_view(nb::object view) {
  view_ = std::move(view);
  exchange_ = view_.is_none() ? nullptr : DlpackExchange::of(view_.type());
  if (!exchange_) return;
  const auto seen = view_of(*exchange_, view_);
  if (!seen || !fits(*seen)) {
    exchange_ = nullptr;
    return;
  }
  memory_ = seen->data;
  bytes_ = request_.inputs[0].bytes();
}

bool PreparedRequest::fits(const DlpackView& seen) const {
  const Tensor& input = request_.inputs[0];
  return seen.dtype == input.dtype &&
         std::equal(seen.shape, seen.shape + seen.dims, input.shape.begin(), input.shape.end());
}

bool PreparedRequest::move_in(nb::handle param, nb::handle grad, const void* from) {
  // Part of a graph, negated, or the view is still somebody's.
  if (bytes_ > kCopiedHere || Py_REFCNT(view_.ptr()) != 1 ||
      !is_false(grad, "requires_grad", false) || !is_false(grad, "is_neg", true))
    return false;
  std::memcpy(memory_, from, bytes_);
  if (PyObject_SetAttrString(param.ptr(), "grad", view_.ptr()) == 0) return true;
  PyErr_Clear();
  return false;
}

Handle PreparedRequest::submit_gradient(nb::handle param, uint64_t step) {
  if (!exchange_) return 0;
  const nb::object grad = nb::steal(PyObject_GetAttrString(param.ptr(), "grad"));
  if (!grad.is_valid()) {
    PyErr_Clear();
    return 0;
  }
  if (!grad.type().is(view_.type())) return 0;
  const auto seen = view_of(*exchange_, grad);
  if (!seen || !fits(*seen)) return 0;
  if (seen->data == memory_ ? !grad.is(view_) : !move_in(param, grad, seen->data)) return 0;
  request_.inputs[0].data = request_.outputs[0].data = memory_;
  request_.lr = 0;  // matters to compression, whose gradients have no view
  request_.step = step;
  const Result<Handle> handle = owner_->use().submit(request_);
  return handle.ok() ? handle.value() : 0;
}

nb::list wait_all(const Owner& owner, nb::list handles) {
  nb::list failed;
  const nb::object ended = nb::int_(0);
  for (size_t i = 0; i < nb::len(handles); ++i) {
    const nb::handle item = handles[i];
    if (!PyLong_CheckExact(item.ptr())) continue;
    const long long handle = PyLong_AsLongLong(item.ptr());
    if (handle <= 0) continue;
    const Status status = owner.wait(static_cast<Handle>(handle), nullptr);
    handles[i] = ended;
    if (status.ok()) continue;
    try {
      check(status);
    } catch (nb::python_error& error) {
      failed.append(nb::make_tuple(i, error.value()));
    }
  }
  return failed;
}

}  // namespace hora
