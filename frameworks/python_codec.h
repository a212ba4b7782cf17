#pragma once

#include <nanobind/nanobind.h>

namespace hora {

/// Adds `add_compressor`, which makes a stage of the grammar out of an object of
/// hora.compression, and `CodecTrial`, with which Python tries any chain.
///
/// The codec of such a stage is C++: it adds what is owed, keeps what was not sent, frames and
/// checks payloads, and calls Python, with views of its memory, only for the numbers themselves.
/// Its granule is the whole tensor, and nothing may follow it in a chain.
///
///   payload = u32 state, u32 rank, bytes that Python wrote      ; state: fine, poisoned, failed
///
/// An exception in Python is no reason to part ways: the payload says which rank failed, so the
/// exchange completes and then every rank gets the same error (Codec::judge).
///
/// Ownership: what is registered stays until the process ends, so that no codec needs the
/// interpreter to be destroyed. Threads: whichever drives takes the interpreter's lock for the
/// call; so nobody who has that lock may wait for the token.
void define_compressors(nanobind::module_& m);

}  // namespace hora
