/* bench.h - problems of the attention operations for `plexus bench`, shared by the mixers that use them. */
#ifndef PLX_MIXERS_ATTENTION_BENCH_H
#define PLX_MIXERS_ATTENTION_BENCH_H

#include "kernels/bench.h"
#include "mixers/attention/attention_ops.h"

/* Platform's shapes: H8 T1024 d64 and H8 T2048 d128; window s->w1. */
extern const plx_bench_shape plx_attention_bench_shapes[];
/* The forward of these arrays. */
plx_attention_args plx_attention_bench_forward(plx_bench_problem *problem, const plx_bench_shape *s, const void *q,
                                               const void *k, const void *v, void *out, void *lse);
/* The backward of a forward. */
plx_attention_backward_args plx_attention_bench_backward(plx_bench_problem *problem, const plx_attention_args *forward,
                                                         const void *dout, void *dq, void *dk, void *dv);
/* Runs that forward, in the precision of the backward that is to take up what it leaves: exp(s - lse) is p only when
 * both rounded alike. */
plx_status plx_attention_bench_prepare(plx_bench_problem *problem, const plx_attention_backward_args *backward);

#endif
