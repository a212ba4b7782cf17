#include "compressors/registry.h"

#include <atomic>
#include <vector>

#include "compressors/level_words.h"
#include "compressors/rotate.h"
#include "compressors/vectors.h"
#include "compressors/walks.h"
#include "hora/status.h"

namespace hora {
namespace {

using Isa = BlockKernels::Isa;

// Function-local so that they exist before the first file registers; constant once main() runs.
std::vector<const BlockKernels*>& table() {
  static std::vector<const BlockKernels*> kernels;
  return kernels;
}

/// Of the kernels that are not quantizers there is one record for each instruction set.
template <class Kernels>
std::vector<const Kernels*>& records() {
  static std::vector<const Kernels*> kernels;
  return kernels;
}

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2")) return Isa::avx2;
#endif
  return Isa::base;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = best_isa();
  return isa;
}

struct Name {
  std::string_view name;
  Isa isa;
};
constexpr Name kNames[] = {
    {"base", Isa::base}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}, {"warp", Isa::warp}};

template <class Kernels>
const Kernels& best_of() {
  const Isa wanted = chosen();
  const Kernels* best = nullptr;
  for (const Kernels* k : records<Kernels>()) {
    if (k->isa == wanted) return *k;
    if (k->isa < wanted && (!best || k->isa > best->isa)) best = k;
  }
  HORA_CHECK(best, "no kernels of a kind were linked");
  return *best;
}

bool have(Isa isa) {
  for (const BlockKernels* k : table()) {
    if (k->isa == isa) return isa == Isa::warp || isa <= best_isa();
  }
  return false;
}

}  // namespace

bool register_kernels(const BlockKernels* kernels) {
  table().push_back(kernels);
  return true;
}

bool register_kernels(const RotateKernels* kernels) {
  records<RotateKernels>().push_back(kernels);
  return true;
}

bool register_kernels(const WalkKernels* kernels) {
  records<WalkKernels>().push_back(kernels);
  return true;
}

bool register_kernels(const VectorKernels* kernels) {
  records<VectorKernels>().push_back(kernels);
  return true;
}

bool register_kernels(const LevelKernels* kernels) {
  records<LevelKernels>().push_back(kernels);
  return true;
}

bool choose_kernel_isa(std::string_view name) {
  if (name == "auto") {
    chosen() = best_isa();
    return true;
  }
  for (const Name& known : kNames) {
    if (known.name != name || !have(known.isa)) continue;
    chosen() = known.isa;
    return true;
  }
  return false;
}

std::string_view chosen_kernel_isa() {
  for (const Name& known : kNames) {
    if (known.isa == chosen()) return known.name;
  }
  return "";
}

const BlockKernels* find_kernels(std::string_view family, int bits, bool random, Isa isa) {
  for (const BlockKernels* k : table()) {
    if (k->family == family && k->bits == bits && k->random == random && k->isa == isa) return k;
  }
  return nullptr;
}

const BlockKernels* find_host_kernels(std::string_view family, int bits, bool random) {
  const Isa wanted = chosen();
  if (wanted == Isa::warp) return find_kernels(family, bits, random, wanted);
  const BlockKernels* best = nullptr;
  for (const BlockKernels* k : table()) {
    if (k->family != family || k->bits != bits || k->random != random || k->isa > wanted) continue;
    if (!best || k->isa > best->isa) best = k;
  }
  return best;
}

const RotateKernels& host_rotation() {
  return best_of<RotateKernels>();
}

const WalkKernels& host_walks() {
  return best_of<WalkKernels>();
}

const VectorKernels& host_vectors() {
  return best_of<VectorKernels>();
}

const LevelKernels& host_levels() {
  return best_of<LevelKernels>();
}

size_t kernel_count() {
  size_t count = 0;
  for (const BlockKernels* k : table()) count += k->isa == Isa::base;
  return count;
}

const BlockKernels* kernel_at(size_t index) {
  for (const BlockKernels* k : table()) {
    if (k->isa == Isa::base && index-- == 0) return k;
  }
  return nullptr;
}

}  // namespace hora
