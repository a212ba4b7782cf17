#define HORA_ISA base
#include "ops/kernels/reduce_loops.inc"
