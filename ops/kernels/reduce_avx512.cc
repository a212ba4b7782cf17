#if defined(__x86_64__)
#define HORA_ISA avx512
#include "ops/kernels/reduce_loops.inc"
#endif
