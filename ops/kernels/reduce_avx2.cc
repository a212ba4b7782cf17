#if defined(__x86_64__)
#define HORA_ISA avx2
#include "ops/kernels/reduce_loops.inc"
#endif
