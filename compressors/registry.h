#pragma once

#include <string>
#include <string_view>

#include "compressors/blocks_jobs.h"

namespace hora {

/// Chooses the instruction set of codecs made from now on: "auto", "base", "avx2", "avx512", and
/// "warp" where it is linked (tests). False if this machine does not have it. Threads: before
/// others make codecs.
bool choose_kernel_isa(std::string_view name);
std::string_view chosen_kernel_isa();

/// The quantizer for exactly `isa`, or null. Tests compare one with another byte for byte.
const BlockKernels* find_kernels(std::string_view family, int bits, bool random,
                                 BlockKernels::Isa isa);

/// The quantizer for the chosen instruction set, or null.
const BlockKernels* find_host_kernels(std::string_view family, int bits, bool random);

/// Every quantizer once (its slowest version), to iterate over.
size_t kernel_count();
const BlockKernels* kernel_at(size_t index);

}  // namespace hora
