#include "benchmarks/fused.h"

namespace hora::benchmarks {

std::span<const FusedLoop> fused_loops() {
  return {};
}

}  // namespace hora::benchmarks
