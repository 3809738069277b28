/* bench.c - what `plexus bench` measures of the 2-simplicial mixer: its two operations. */
#include "kernels/bench.h"
#include "mixers/mixer.h"
#include "mixers/simplicial/simplicial_ops.h"

#include <math.h>

static const plx_bench_shape shapes[] = {{.B = 1, .T = 512, .H = 4, .G = 4, .d = 64, .w1 = 64, .w2 = 16},
                                         {.B = 1, .T = 512, .H = 4, .G = 4, .d = 64, .w1 = 512, .w2 = 32},
                                         {.B = 1, .T = 512, .H = 4, .G = 4, .d = 128, .w1 = 512, .w2 = 32},
                                         {0}};

static plx_history history(plx_bench_problem *problem, const plx_bench_shape *s)
{
    size_t width = s->G * s->d;
    return (plx_history){.data = plx_bench_input(problem, s->B * s->T * width, 1), .width = width,
                         .row_stride = s->T * width};
}

/* Numbers of deviation 1: a logit is a sum of d products of three, divided by sqrt(d): of deviation 1 too. */
static plx_simplicial_problem make_problem(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return (plx_simplicial_problem){
        .type = problem->type, .sequence = plx_bench_sequence(problem, s->B, s->T),
        .heads = s->H, .kv_heads = s->G, .head_dim = s->d, .window1 = s->w1, .window2 = s->w2,
        .form = PLX_SIMPLICIAL_TRILINEAR, .scale = 1 / sqrt((double)s->d),
        .q = plx_bench_input(problem, s->B * s->T * s->H * s->d, 1), .k = history(problem, s),
        .v = history(problem, s), .k2 = history(problem, s), .v2 = history(problem, s),
    };
}

static plx_status make_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_simplicial_forward_args *args = (plx_simplicial_forward_args *)problem->arguments.bytes;
    size_t queries = s->B * s->T * s->H;
    args->problem = make_problem(problem, s);
    args->out = plx_bench_output(problem, queries * s->d);
    args->lse = plx_bench_output(problem, queries);
    problem->bf16 = &args->problem.bf16;
    return problem->status;
}

static plx_status make_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_simplicial_backward_args *args = (plx_simplicial_backward_args *)problem->arguments.bytes;
    size_t queries = s->B * s->T * s->H, keys = s->B * s->T * s->G * s->d, size = plx_type_size(problem->type);
    *args = (plx_simplicial_backward_args){
        .problem = make_problem(problem, s), .out = plx_bench_plain(problem, NULL, queries * s->d * size),
        .lse = plx_bench_plain(problem, NULL, queries * size),
        .dout = plx_bench_input(problem, queries * s->d, 1), .dq = plx_bench_output(problem, queries * s->d),
        .dk = plx_bench_output(problem, keys), .dv = plx_bench_output(problem, keys),
        .dk2 = plx_bench_output(problem, keys), .dv2 = plx_bench_output(problem, keys)};
    problem->bf16 = &args->problem.bf16;
    return problem->status;
}

/* Backward takes up what forward left: exp(A - lse) is P only when both rounded alike. */
static plx_status prepare_backward(plx_bench_problem *problem)
{
    const plx_simplicial_backward_args *args = (const plx_simplicial_backward_args *)problem->arguments.bytes;
    plx_simplicial_forward_args forward = {
        .problem = args->problem, .out = (void *)(uintptr_t)args->out, .lse = (void *)(uintptr_t)args->lse};
    return plx_bench_op(problem, &plx_op_simplicial_forward, &forward);
}

const plx_bench_case *const plx_simplicial_bench[] = {
    &(const plx_bench_case){.name = "simplicial.forward", .op = &plx_op_simplicial_forward, .shapes = shapes,
                            .tolerance = 1e-5, .convention = "4 d a visible pair (j,k), useful pairs only",
                            .make = make_forward},
    &(const plx_bench_case){.name = "simplicial.backward", .op = &plx_op_simplicial_backward, .shapes = shapes,
                            .tolerance = 2e-5, .convention = "12 d a visible pair (j,k), useful pairs only",
                            .make = make_backward, .prepare = prepare_backward},
    NULL};
