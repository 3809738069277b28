/* bench.c - what `plexus bench` measures of the grassmann mixer's own operations; the whole layer, products included, is
 * measured as grassmann.forward and .backward (lab/bench_model.c). */
#include "kernels/bench.h"
#include "mixers/grassmann/grassmann_ops.h"
#include "mixers/mixer.h"

static const plx_bench_shape shapes[] = {{.B = 1, .T = 1024, .D = 256, .rank = 32},
                                         {.B = 1, .T = 1024, .D = 1024, .rank = 32},
                                         {0}};
static const plx_bench_shape encode_shapes[] = {{.B = 1, .T = 1024, .rank = 32}, {0}};
static const plx_bench_shape fuse_shapes[] = {{.count = 1024 * 1024}, {0}};
static const plx_grassmann_offsets offsets = {6, {1, 2, 4, 8, 12, 16}};

static plx_status make_reduce_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_reduce_args *args = (plx_grassmann_reduce_args *)problem->arguments.bytes;
    size_t tokens = s->B * s->T;
    *args = (plx_grassmann_reduce_args){.type = problem->type, .weight_type = problem->type, .tokens = tokens,
                                        .width = s->D, .rank = s->rank, .x = plx_bench_input(problem, tokens * s->D, 1),
                                        .weight = plx_bench_input(problem, s->rank * s->D, 0.1),
                                        .bias = plx_bench_input(problem, s->rank, 1),
                                        .z = plx_bench_output(problem, tokens * s->rank)};
    return problem->status;
}

static plx_status make_reduce_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_reduce_backward_args *args = (plx_grassmann_reduce_backward_args *)problem->arguments.bytes;
    size_t tokens = s->B * s->T;
    *args = (plx_grassmann_reduce_backward_args){
        .type = problem->type, .weight_type = problem->type, .tokens = tokens, .width = s->D, .rank = s->rank,
        .x = plx_bench_input(problem, tokens * s->D, 1), .weight = plx_bench_input(problem, s->rank * s->D, 0.1),
        .dz = plx_bench_input_of(problem, PLX_F64, tokens * s->rank, 1), .dx = plx_bench_both(problem, tokens * s->D, 1),
        .dweight = plx_bench_both(problem, s->rank * s->D, 1), .dbias = plx_bench_both(problem, s->rank, 1)};
    return problem->status;
}

static plx_status make_encode_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_encode_args *args = (plx_grassmann_encode_args *)problem->arguments.bytes;
    size_t tokens = s->B * s->T;
    *args = (plx_grassmann_encode_args){
        .type = problem->type, .sequence = plx_bench_sequence(problem, s->B, s->T),
        .z = {.data = plx_bench_input(problem, tokens * s->rank, 1), .width = s->rank, .row_stride = s->T * s->rank},
        .offsets = offsets, .count = tokens, .w = plx_bench_output(problem, tokens * plx_grassmann_components(s->rank))};
    return problem->status;
}

static plx_status make_encode_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_encode_backward_args *args = (plx_grassmann_encode_backward_args *)problem->arguments.bytes;
    size_t tokens = s->B * s->T;
    *args = (plx_grassmann_encode_backward_args){
        .type = problem->type, .sequence = plx_bench_sequence(problem, s->B, s->T), .rank = s->rank,
        .offsets = offsets, .count = tokens, .z = plx_bench_input(problem, tokens * s->rank, 1),
        .dw = plx_bench_input(problem, tokens * plx_grassmann_components(s->rank), 1),
        .dz = plx_bench_output_of(problem, PLX_F64, tokens * s->rank)};
    return problem->status;
}

static plx_status make_fuse_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_fuse_args *args = (plx_grassmann_fuse_args *)problem->arguments.bytes;
    *args = (plx_grassmann_fuse_args){.type = problem->type, .count = s->count,
                                      .gate = plx_bench_both(problem, s->count, 1),
                                      .h = plx_bench_input(problem, s->count, 1),
                                      .g = plx_bench_input(problem, s->count, 1),
                                      .y = plx_bench_output(problem, s->count)};
    return problem->status;
}

static plx_status make_fuse_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_grassmann_fuse_backward_args *args = (plx_grassmann_fuse_backward_args *)problem->arguments.bytes;
    *args = (plx_grassmann_fuse_backward_args){
        .type = problem->type, .count = s->count, .gate = plx_bench_input(problem, s->count, 1),
        .h = plx_bench_input(problem, s->count, 1), .g = plx_bench_input(problem, s->count, 1),
        .dy = plx_bench_input(problem, s->count, 1), .dgate = plx_bench_output(problem, s->count),
        .dh = plx_bench_output(problem, s->count), .dg = plx_bench_output(problem, s->count)};
    return problem->status;
}

#define CASE(part, case_shapes, most, counted)                                                          \
    &(const plx_bench_case){.name = "grassmann." #part, .op = &plx_op_grassmann_##part, .shapes = case_shapes, \
                            .tolerance = most, .convention = counted, .make = make_##part}
const plx_bench_case *const plx_grassmann_bench[] = {
    CASE(reduce_forward, shapes, 1e-5, "2 D r a token"),
    CASE(reduce_backward, shapes, 1e-5, "4 D r a token"),
    CASE(encode_forward, encode_shapes, 1e-5, "a wedge 3 P, an offset 8 r"),
    CASE(encode_backward, encode_shapes, 1e-5, "two products with a wedge 8 P, an offset 16 r"),
    CASE(fuse_forward, fuse_shapes, 1e-5, NULL),
    CASE(fuse_backward, fuse_shapes, 1e-5, NULL),
    NULL};
