#pragma once

#include <nanobind/nanobind.h>

namespace hora {

/// Adds the class Membership: this process's place in an elastic job.
void define_membership(nanobind::module_& m);

}  // namespace hora
