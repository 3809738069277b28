/* bench.c - what `plexus bench` measures of nexus: the attentions of an order-2 layer whose queries and keys each have
 * an inner attention of their own (three attentions, no projections), and the gate. */
#include "mixers/attention/bench.h"
#include "mixers/mixer.h"
#include "mixers/nexus/nexus_ops.h"

static const plx_bench_shape shapes[] = {{.B = 1, .T = 1024, .H = 8, .G = 8, .d = 64}, {0}};
static const plx_bench_shape gate_shapes[] = {{.count = (size_t)1 << 20}, {0}};

typedef struct three { plx_attention_args part[3]; } three; /* queries, keys, outer */
typedef struct three_backward { plx_attention_backward_args part[3]; } three_backward;
_Static_assert(sizeof(three_backward) <= sizeof(((plx_bench_problem *)0)->arguments), "arguments are too small");

/* The inner attentions' results are the outer one's queries and keys; `result` of the outer one is out. */
static plx_status make_three(plx_bench_problem *problem, const plx_bench_shape *s, three *args, void *out)
{
    size_t rows = s->B * s->T, queries = rows * s->H, keys = rows * s->G, size = plx_type_size(problem->type);
    plx_bench_shape inner = *s;
    const void *v = plx_bench_input(problem, keys * s->d, 1);
    void *refined[2];
    for (int i = 0; i < 2; i++) { /* the inner attention of the keys has as many heads as there are keys */
        inner.H = i == 0 ? s->H : s->G;
        size_t heads = rows * inner.H;
        const void *q = plx_bench_input(problem, heads * s->d, 1), *k = plx_bench_input(problem, keys * s->d, 1),
                   *values = plx_bench_input(problem, keys * s->d, 1);
        refined[i] = plx_bench_plain(problem, NULL, heads * s->d * size);
        args->part[i] = plx_attention_bench_forward(problem, &inner, q, k, values, refined[i],
                                                    plx_bench_plain(problem, NULL, heads * size));
    }
    args->part[2] = plx_attention_bench_forward(problem, s, refined[0], refined[1], v, out,
                                                plx_bench_plain(problem, NULL, queries * size));
    for (int i = 0; i < 3; i++) problem->flops += plx_op_attention_forward.flops(&args->part[i]);
    return problem->status;
}

static size_t size_of(const plx_sequence *sequence, size_t heads, size_t head_dim)
{
    return sequence->rows * sequence->length * heads * head_dim;
}

static plx_status run_forward(plx_bench_problem *problem)
{
    three *args = (three *)problem->arguments.bytes;
    for (int i = 0; i < 3; i++) {
        const plx_attention_args *part = &args->part[i];
        args->part[i].bf16 = args->part[0].bf16;
        PLX_TRY(plx_bench_op(problem, &plx_op_attention_forward, part));
        if (i < 2) plx_bench_round(problem, part->out, size_of(&part->sequence, part->heads, part->head_dim));
    }
    return PLX_OK;
}

static plx_status make_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    three *args = (three *)problem->arguments.bytes;
    void *out = plx_bench_output(problem, s->B * s->T * s->H * s->d);
    PLX_TRY(make_three(problem, s, args, out));
    problem->bf16 = &args->part[0].bf16;
    return PLX_OK;
}

/* The outer attention first: its dq and dk are what comes back to the inner ones. */
static plx_status run_backward(plx_bench_problem *problem)
{
    three_backward *args = (three_backward *)problem->arguments.bytes;
    for (int i = 2; i >= 0; i--) {
        const plx_attention_backward_args *part = &args->part[i];
        args->part[i].bf16 = args->part[0].bf16;
        PLX_TRY(plx_bench_op(problem, &plx_op_attention_backward, part));
        if (i < 2) continue;
        plx_bench_round(problem, part->dq, size_of(&part->sequence, part->heads, part->head_dim));
        plx_bench_round(problem, part->dk, size_of(&part->sequence, part->kv_heads, part->head_dim));
    }
    return PLX_OK;
}

static plx_status make_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    three_backward *args = (three_backward *)problem->arguments.bytes;
    three forward;
    size_t rows = s->B * s->T, queries = rows * s->H * s->d, keys = rows * s->G * s->d,
           size = plx_type_size(problem->type);
    PLX_TRY(make_three(problem, s, &forward, plx_bench_plain(problem, NULL, queries * size)));
    const void *dout = plx_bench_input(problem, queries, 1);
    void *drefined[2] = {plx_bench_plain(problem, NULL, queries * size), plx_bench_plain(problem, NULL, keys * size)};
    problem->flops = 0;
    for (int i = 2; i >= 0; i--) {
        void *dq = i == 2 ? drefined[0] : plx_bench_output(problem, i == 0 ? queries : keys),
             *dk = i == 2 ? drefined[1] : plx_bench_output(problem, keys), *dv = plx_bench_output(problem, keys);
        args->part[i] =
            plx_attention_bench_backward(problem, &forward.part[i], i == 2 ? dout : drefined[i], dq, dk, dv);
        problem->flops += plx_op_attention_backward.flops(&args->part[i]);
    }
    problem->bf16 = &args->part[0].bf16;
    return problem->status;
}

static plx_status prepare_backward(plx_bench_problem *problem)
{
    three_backward *args = (three_backward *)problem->arguments.bytes;
    for (int i = 0; i < 3; i++) {
        const plx_attention_backward_args *part = &args->part[i];
        args->part[i].bf16 = args->part[0].bf16;
        PLX_TRY(plx_attention_bench_prepare(problem, part));
        if (i < 2) plx_bench_round(problem, part->out, size_of(&part->sequence, part->heads, part->head_dim));
    }
    return PLX_OK;
}

static plx_status make_gate_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_nexus_gate_args *args = (plx_nexus_gate_args *)problem->arguments.bytes;
    *args = (plx_nexus_gate_args){.type = problem->type, .gate_type = problem->type, .count = s->count,
                                  .base = plx_bench_input(problem, s->count, 1),
                                  .refined = plx_bench_input(problem, s->count, 1),
                                  .gate = plx_bench_input(problem, 1, 1), .out = plx_bench_output(problem, s->count)};
    return problem->status;
}

static plx_status make_gate_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_nexus_gate_backward_args *args = (plx_nexus_gate_backward_args *)problem->arguments.bytes;
    *args = (plx_nexus_gate_backward_args){
        .type = problem->type, .gate_type = problem->type, .count = s->count,
        .base = plx_bench_input(problem, s->count, 1), .refined = plx_bench_input(problem, s->count, 1),
        .gate = plx_bench_input(problem, 1, 1), .dout = plx_bench_input(problem, s->count, 1),
        .drefined = plx_bench_output(problem, s->count), .dbase = plx_bench_both(problem, s->count, 1),
        .dgate = plx_bench_both(problem, 1, 1)};
    return problem->status;
}

const plx_bench_case *const plx_nexus_bench[] = {
    &(const plx_bench_case){.name = "nexus.forward", .op = &plx_op_attention_forward, .shapes = shapes,
                            .tolerance = 1e-5, .convention = "4 d a visible pair of each of the three attentions",
                            .make = make_forward, .run = run_forward},
    &(const plx_bench_case){.name = "nexus.backward", .op = &plx_op_attention_backward, .shapes = shapes,
                            .tolerance = 1e-5, .convention = "10 d a visible pair of each of the three attentions",
                            .make = make_backward, .prepare = prepare_backward, .run = run_backward},
    &(const plx_bench_case){.name = "nexus.gate_forward", .op = &plx_op_nexus_gate_forward, .shapes = gate_shapes,
                            .tolerance = 1e-5, .make = make_gate_forward},
    &(const plx_bench_case){.name = "nexus.gate_backward", .op = &plx_op_nexus_gate_backward, .shapes = gate_shapes,
                            .tolerance = 1e-4, .make = make_gate_backward},
    NULL};
