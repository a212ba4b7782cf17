#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include <nanobind/nanobind.h>

#include "frameworks/dlpack.h"
#include "frameworks/owner.h"
#include "hora/request.h"

namespace hora {

/// In-place allreduces that were made before, by name. Checking a call and handing over its many
/// terms takes longer than the engine needs for a small tensor; so what was checked once is kept,
/// and a call like it costs a look-up and a look at the tensor.
///
/// Alike is a call with the same name, terms (the same Python objects), and tensors of the same
/// type, dtype and shape; the tensors themselves may be others. All others are new calls, and so is
/// everything of a framework without a DlpackExchange.
///
/// Threads: under the interpreter's lock.
class Calls {
 public:
  explicit Calls(std::shared_ptr<Owner> owner);

  /// What makes a call alike, besides its tensors.
  struct Terms {
    nanobind::object op, set;
    double prescale, postscale;

    bool operator==(const Terms& other) const {
      return op.is(other.op) && set.is(other.set) && prescale == other.prescale &&
             postscale == other.postscale;
    }
  };

  /// Keeps a call that went well. `reduce` and `set_id` are what its terms mean to the engine.
  void remember(nanobind::list tensors, nanobind::str name, nanobind::object op, double prescale,
                double postscale, nanobind::object set, unsigned reduce, SetId set_id);

  /// Submits a call like one remembered, and gives its handle; 0 if there is none. The tensor is
  /// kept until finish().
  nanobind::object submit(nanobind::handle tensor, nanobind::handle name, nanobind::object op,
                          double prescale, double postscale, nanobind::object set);
  /// The same for a group of tensors.
  nanobind::object submit_group(nanobind::list tensors, nanobind::handle name, nanobind::object op,
                                double prescale, double postscale, nanobind::object set);

  /// Waits for what submit() or submit_group() began and gives what was lent, which now holds the
  /// result; None if it is another's handle, or was finished.
  nanobind::object finish(nanobind::handle handle);
  /// Is the handle one that finish() waits for?
  bool holds(nanobind::handle handle) const { return lent_.contains(handle); }

 private:
  struct Call {
    Terms terms;
    bool group;
    nanobind::object type;
    const DlpackExchange* exchange;
    Request request;
  };

  Call* find(nanobind::handle name, const Terms& terms);
  bool lend(Call& call, size_t index, nanobind::handle tensor);
  nanobind::object begin(Call& call, nanobind::handle lent);

  std::shared_ptr<Owner> owner_;
  nanobind::dict lent_, by_name_;
  std::deque<Call> calls_;
  nanobind::object is_neg_, nothing_;
};

}  // namespace hora
