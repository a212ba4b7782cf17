#include "frameworks/calls.h"

#include <algorithm>
#include <utility>

#include "frameworks/terms.h"

namespace nb = nanobind;

namespace hora {
namespace {

constexpr size_t kLimit = 65'536;  // names

}  // namespace

Calls::Calls(std::shared_ptr<Owner> owner)
    : owner_(std::move(owner)),
      is_neg_(nb::steal(PyUnicode_InternFromString("is_neg"))),
      nothing_(nb::int_(0)) {}

void Calls::remember(nb::list tensors, nb::str name, nb::object op, double prescale,
                     double postscale, nb::object set, unsigned reduce, SetId set_id) {
  if (calls_.size() >= kLimit) {
    by_name_.clear();
    calls_.clear();
  }
  const nb::object type = nb::borrow(tensors[0].type());
  const DlpackExchange* exchange = DlpackExchange::of(type);
  if (!exchange) return;
  Call call{{op, set, prescale, postscale}, nb::len(tensors) > 1, type, exchange, {}};
  assign_terms(
      call.request,
      {static_cast<unsigned>(Op::kAllreduce), reduce, set_id, 0, prescale, postscale, 0, 0}, name,
      nb::str("none"));
  for (const nb::handle tensor : tensors) {
    const auto view = view_of(*exchange, tensor);
    if (!view || !tensor.type().is(type)) return;
    Tensor& input = call.request.inputs.emplace_back();
    input.dtype = view->dtype;
    input.shape.assign(view->shape, view->shape + view->dims);
  }
  call.request.outputs = call.request.inputs;
  if (by_name_.contains(name)) {
    calls_[nb::cast<size_t>(by_name_[name])] = std::move(call);
    return;
  }
  by_name_[name] = calls_.size();
  calls_.push_back(std::move(call));
}

Calls::Call* Calls::find(nb::handle name, const Terms& terms) {
  PyObject* const index = PyDict_GetItemWithError(by_name_.ptr(), name.ptr());  // borrowed
  if (!index) {
    PyErr_Clear();
    return nullptr;
  }
  Call& call = calls_[PyLong_AsSize_t(index)];
  return call.terms == terms ? &call : nullptr;
}

bool Calls::lend(Call& call, size_t index, nb::handle tensor) {
  if (!tensor.type().is(call.type)) return false;
  const auto view = view_of(*call.exchange, tensor);
  Tensor& input = call.request.inputs[index];
  if (!view || view->dtype != input.dtype ||
      !std::equal(view->shape, view->shape + view->dims, input.shape.begin(), input.shape.end()))
    return false;
  // The one thing about memory that a view does not say: it may hold the values' negatives.
  const nb::object negative = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), is_neg_.ptr()));
  if (negative.ptr() != Py_False) {
    PyErr_Clear();
    return false;
  }
  input.data = call.request.outputs[index].data = view->data;
  return true;
}

nb::object Calls::begin(Call& call, nb::handle lent) {
  const Handle handle = take(owner_->use().submit(call.request));
  const nb::object key = nb::steal(PyLong_FromUnsignedLongLong(handle));
  if (PyDict_SetItem(lent_.ptr(), key.ptr(), lent.ptr()) != 0) throw nb::python_error();
  return key;
}

nb::object Calls::finish(nb::handle handle) {
  const nb::object lent = nb::borrow(PyDict_GetItemWithError(lent_.ptr(), handle.ptr()));
  if (!lent.is_valid()) {
    PyErr_Clear();  // not even a number
    return nb::none();
  }
  const Status status = owner_->wait(nb::cast<Handle>(handle), nullptr);
  if (PyDict_DelItem(lent_.ptr(), handle.ptr()) != 0) throw nb::python_error();
  check(status);
  return lent;
}

nb::object Calls::submit(nb::handle tensor, nb::handle name, nb::object op, double prescale,
                         double postscale, nb::object set) {
  Call* const call = find(name, {std::move(op), std::move(set), prescale, postscale});
  if (!call || call->group || !lend(*call, 0, tensor)) return nothing_;
  return begin(*call, tensor);
}

nb::object Calls::submit_group(nb::list tensors, nb::handle name, nb::object op, double prescale,
                               double postscale, nb::object set) {
  Call* const call = find(name, {std::move(op), std::move(set), prescale, postscale});
  if (!call || !call->group || nb::len(tensors) != call->request.inputs.size()) return nothing_;
  for (size_t i = 0; i < call->request.inputs.size(); ++i)
    if (!lend(*call, i, tensors[i])) return nothing_;
  return begin(*call, tensors);
}

}  // namespace hora
