#pragma once

#include <nanobind/nanobind.h>

namespace hora {

/// Adds the class `CodecTrial`: one tensor's codec and memory, without an engine, for
/// hora.testing and for measurements. Threads: one at a time.
void define_codec_trial(nanobind::module_& m);

}  // namespace hora
