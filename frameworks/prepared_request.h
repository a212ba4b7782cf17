#pragma once

#include <cstdint>
#include <memory>

#include <nanobind/nanobind.h>

#include "frameworks/dlpack.h"
#include "frameworks/owner.h"
#include "frameworks/terms.h"
#include "hora/request.h"

namespace hora {

/// One parameter's gradient as a request that is submitted again each step, in place, on memory
/// that may move.
///
/// Usually that memory is `view`, this rank's slice of the arena. submit_gradient() then does in
/// C++ what an adapter does in the framework for all other cases.
///
/// Threads: under the interpreter's lock.
class PreparedRequest {
 public:
  PreparedRequest(std::shared_ptr<Owner> owner, const Terms& terms, unsigned dtype,
                  nanobind::tuple shape, nanobind::str name, nanobind::str chain);

  /// Submits the memory at `data`, whose elements lie one after the other.
  Handle submit(uintptr_t data, float lr, uint64_t step);

  /// Submits `param.grad`, after which `param.grad` lies in the view: it does already, or it is
  /// small and like the view, nobody else holds the view, and its values are copied. Gives 0, and
  /// has done nothing, if none of this holds or the engine does not take the request: the long way
  /// knows what to do or to say.
  Handle submit_gradient(nanobind::handle param, uint64_t step);

  nanobind::object view() const { return view_; }
  void set_view(nanobind::object view);

 private:
  bool fits(const DlpackView& seen) const;
  bool move_in(nanobind::handle param, nanobind::handle grad, const void* from);

  std::shared_ptr<Owner> owner_;
  Request request_;
  nanobind::object view_ = nanobind::none();
  const DlpackExchange* exchange_ = nullptr;  ///< null: no view, or none that can be looked into
  void* memory_ = nullptr;                    ///< of the view
  size_t bytes_ = 0;
};

/// Waits for the requests of all handles in the list, in order, and puts 0 in the place of each
/// that has ended; what is no positive number stays. Gives [(index, exception)] of those that
/// failed. Ctrl-C raises, and leaves the rest.
nanobind::list wait_all(const Owner& owner, nanobind::list handles);

}  // namespace hora
