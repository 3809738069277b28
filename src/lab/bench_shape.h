/* bench_shape.h - the sizes at which a case runs: those that are asked for, and smaller ones for the reference. */
#ifndef PLX_LAB_BENCH_SHAPE_H
#define PLX_LAB_BENCH_SHAPE_H

#include "kernels/bench.h"

/* The shape with those of its sizes that are given (not 0); sizes that the case has none of stay 0. */
plx_bench_shape plx_bench_shape_with(plx_bench_shape shape, plx_bench_shape given);
bool plx_bench_shape_same(const plx_bench_shape *a, const plx_bench_shape *b);
/* Makes the shape smaller where that keeps its character: batch, then layers, then heads, then the longest side. False:
 * it is as small as it gets. */
bool plx_bench_shape_reduce(plx_bench_shape *shape);
/* PLX_ERROR_VALUE for what cannot fit, so that no product of sizes overflows later. */
plx_status plx_bench_shape_check(plx_context *context, const plx_bench_case *about, const plx_bench_shape *shape);

#endif
