/* bench.c - what `plexus bench` measures of attention: the two operations. */
#include "mixers/attention/bench.h"

#include "mixers/mixer.h"

#include <math.h>

const plx_bench_shape plx_attention_bench_shapes[] = {{.B = 1, .T = 1024, .H = 8, .G = 8, .d = 64},
                                                      {.B = 1, .T = 2048, .H = 8, .G = 8, .d = 128},
                                                      {0}};

plx_attention_args plx_attention_bench_forward(plx_bench_problem *problem, const plx_bench_shape *s, const void *q,
                                               const void *k, const void *v, void *out, void *lse)
{
    size_t width = s->G * s->d;
    plx_history keys = {.data = (void *)(uintptr_t)k, .width = width, .row_stride = s->T * width}, values = keys;
    values.data = (void *)(uintptr_t)v;
    return (plx_attention_args){
        .type = problem->type, .sequence = plx_bench_sequence(problem, s->B, s->T),
        .heads = s->H, .kv_heads = s->G, .head_dim = s->d, .window = s->w1, .scale = 1 / sqrt((double)s->d),
        .q = q, .keys = keys, .values = values, .out = out, .lse = lse,
    };
}

plx_attention_backward_args plx_attention_bench_backward(plx_bench_problem *problem, const plx_attention_args *forward,
                                                         const void *dout, void *dq, void *dk, void *dv)
{
    return (plx_attention_backward_args){
        .type = problem->type, .sequence = forward->sequence,
        .heads = forward->heads, .kv_heads = forward->kv_heads, .head_dim = forward->head_dim,
        .window = forward->window, .scale = forward->scale,
        .q = forward->q, .k = forward->keys.data, .v = forward->values.data,
        .out = forward->out, .lse = forward->lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv,
    };
}

static plx_status make_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_attention_args *args = (plx_attention_args *)problem->arguments.bytes;
    size_t rows = s->B * s->T, queries = rows * s->H, keys = rows * s->G * s->d;
    const void *q = plx_bench_input(problem, queries * s->d, 1), *k = plx_bench_input(problem, keys, 1),
               *v = plx_bench_input(problem, keys, 1);
    void *out = plx_bench_output(problem, queries * s->d);
    *args = plx_attention_bench_forward(problem, s, q, k, v, out, plx_bench_output(problem, queries));
    problem->bf16 = &args->bf16;
    return problem->status;
}

static plx_status make_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_attention_backward_args *args = (plx_attention_backward_args *)problem->arguments.bytes;
    size_t rows = s->B * s->T, queries = rows * s->H, keys = rows * s->G * s->d, size = plx_type_size(problem->type);
    const void *q = plx_bench_input(problem, queries * s->d, 1), *k = plx_bench_input(problem, keys, 1),
               *v = plx_bench_input(problem, keys, 1), *dout = plx_bench_input(problem, queries * s->d, 1);
    void *out = plx_bench_plain(problem, NULL, queries * s->d * size),
         *lse = plx_bench_plain(problem, NULL, queries * size);
    plx_attention_args forward = plx_attention_bench_forward(problem, s, q, k, v, out, lse);
    void *dq = plx_bench_output(problem, queries * s->d), *dk = plx_bench_output(problem, keys),
         *dv = plx_bench_output(problem, keys);
    *args = plx_attention_bench_backward(problem, &forward, dout, dq, dk, dv);
    problem->bf16 = &args->bf16;
    return problem->status;
}

plx_status plx_attention_bench_prepare(plx_bench_problem *problem, const plx_attention_backward_args *a)
{
    const size_t width = a->kv_heads * a->head_dim;
    plx_history keys = {.data = (void *)(uintptr_t)a->k, .width = width, .row_stride = a->sequence.length * width},
                values = keys;
    values.data = (void *)(uintptr_t)a->v;
    plx_attention_args forward = {.type = a->type,
                                  .sequence = a->sequence,
                                  .heads = a->heads,
                                  .kv_heads = a->kv_heads,
                                  .head_dim = a->head_dim,
                                  .window = a->window,
                                  .scale = a->scale,
                                  .q = a->q,
                                  .keys = keys,
                                  .values = values,
                                  .out = (void *)(uintptr_t)a->out,
                                  .lse = (void *)(uintptr_t)a->lse,
                                  .bf16 = a->bf16};
    return plx_bench_op(problem, &plx_op_attention_forward, &forward);
}

static plx_status prepare_backward(plx_bench_problem *problem)
{
    return plx_attention_bench_prepare(problem, (const plx_attention_backward_args *)problem->arguments.bytes);
}

const plx_bench_case *const plx_attention_bench[] = {
    &(const plx_bench_case){.name = "attention.forward",
                            .op = &plx_op_attention_forward,
                            .shapes = plx_attention_bench_shapes,
                            .tolerance = 1e-5,
                            .convention = "4 d a visible pair of query and key",
                            .make = make_forward},
    &(const plx_bench_case){.name = "attention.backward",
                            .op = &plx_op_attention_backward,
                            .shapes = plx_attention_bench_shapes,
                            .tolerance = 1e-5,
                            .convention = "10 d a visible pair",
                            .make = make_backward,
                            .prepare = prepare_backward},
    NULL};
