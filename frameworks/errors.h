#pragma once

#include <utility>

#include <nanobind/nanobind.h>

#include "hora/status.h"

namespace hora {

/// Throws what Python sees of a failure: ValueError for the caller's mistake, as in Horovod, and
/// otherwise the subclass of hora.HoraError that define_exceptions() made for its code. Threads:
/// under the interpreter's lock.
[[noreturn]] void raise(const Status& status);

inline void check(const Status& status) {
  if (!status.ok()) [[unlikely]]
    raise(status);
}

template <class T>
T take(Result<T> result) {
  if (!result.ok()) [[unlikely]]
    raise(result.status());
  return std::move(result).value();
}

void define_exceptions(nanobind::module_& m);

}  // namespace hora
