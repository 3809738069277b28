/* peak.h - what machine.c has measured at each level (peak.c). */
#ifndef PLX_CORE_CPU_PEAK_H
#define PLX_CORE_CPU_PEAK_H

#include "kernels/kernels.h"

/* `rounds` times: each of many independent registers of floats a = a * x + y. *flops: multiply-adds done, counted as 2;
 * *sum: of the results, so that they are wanted. One thread. */
typedef struct plx_peak_multiply_args { size_t rounds; double *flops; float *sum; } plx_peak_multiply_args;
/* *sum = sum of data[count], as fast as memory gives it. One thread. */
typedef struct plx_peak_read_args { const float *data; size_t count; float *sum; } plx_peak_read_args;

PLX_CPU_DECLARE(plx_peak_multiply)
PLX_CPU_DECLARE(plx_peak_read)

/* `rounds` times two bf16 tiles of A and two of B are loaded from L1 and multiplied into four. One thread. */
typedef struct plx_peak_tiles_args { size_t rounds; double *flops; } plx_peak_tiles_args;
PLX_TILES_DECLARE(plx_peak_tiles)

#endif
