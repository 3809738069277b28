/* bench.c - what `plexus bench` measures of the shared operations: products as a model's training makes them, and the
 * rest at the sizes of a batch of 2,048 tokens. */
#include "kernels/bench.h"

#include "core/random.h"
#include "kernels/packed.h"

#include <math.h>
#include <stddef.h>

#define ARGS(type) type *args = (type *)(void *)problem->arguments.bytes
_Static_assert(sizeof(plx_matmul_group_args) <= sizeof(((plx_bench_problem *)0)->arguments), "arguments are too small");

/* ---- matmul: M, N, K are those of the product itself, C[M,N] = A[M,K] B[K,N] ---- */

enum { TOKENS = 2048 };
/* x W^T: tokens, out, in */
static const plx_bench_shape forward_shapes[] = {{.M = TOKENS, .N = 768, .K = 256}, {.M = TOKENS, .N = 1024, .K = 256},
                                                 {.M = TOKENS, .N = 256, .K = 1024}, {.M = TOKENS, .N = 8192, .K = 256},
                                                 {0}};
/* dy^T x: out, in, tokens */
static const plx_bench_shape dweight_shapes[] = {{.M = 768, .N = 256, .K = TOKENS}, {.M = 1024, .N = 256, .K = TOKENS},
                                                 {.M = 256, .N = 1024, .K = TOKENS}, {.M = 8192, .N = 256, .K = TOKENS},
                                                 {0}};
/* dy W: tokens, in, out */
static const plx_bench_shape dinput_shapes[] = {{.M = TOKENS, .N = 256, .K = 768}, {.M = TOKENS, .N = 256, .K = 1024},
                                                {.M = TOKENS, .N = 1024, .K = 256}, {.M = TOKENS, .N = 256, .K = 8192},
                                                {0}};

static plx_status make_matmul(plx_bench_problem *problem, const plx_bench_shape *s, bool transpose_a, bool transpose_b)
{
    ARGS(plx_matmul_args);
    plx_type type = problem->type;
    *args = (plx_matmul_args){
        .a_type = type, .b_type = type, .c_type = type, .a = plx_bench_input(problem, s->M * s->K, 1),
        .b = plx_bench_input(problem, s->K * s->N, 1), .c = plx_bench_output(problem, s->M * s->N),
        .m = s->M, .n = s->N, .k = s->K, .lda = transpose_a ? s->M : s->K, .ldb = transpose_b ? s->K : s->N,
        .ldc = s->N, .transpose_a = transpose_a, .transpose_b = transpose_b, .gradients = true};
    problem->bf16 = &args->bf16;
    return problem->status;
}
static plx_status make_matmul_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_matmul(problem, s, false, true);
}
static plx_status make_matmul_dweight(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_matmul(problem, s, true, false);
}
static plx_status make_matmul_dinput(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_matmul(problem, s, false, false);
}

/* x W^T for three W: a layer's queries, keys and values */
static const plx_bench_shape group_shapes[] = {{.M = TOKENS, .N = 256, .K = 256}, {0}};
static plx_status make_matmul_group(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_matmul_group_args);
    const void *x = plx_bench_input(problem, s->M * s->K, 1);
    for (args->count = 0; args->count < 3; args->count++)
        args->part[args->count] = (plx_matmul_args){
            .a_type = problem->type, .b_type = problem->type, .c_type = problem->type, .a = x,
            .b = plx_bench_input(problem, s->N * s->K, 1), .c = plx_bench_output(problem, s->M * s->N), .m = s->M,
            .n = s->N, .k = s->K, .lda = s->K, .ldb = s->K, .ldc = s->N, .transpose_b = true, .gradients = true};
    return problem->status;
}

/* ---- packed products: one token, and a prompt; the widest matrices of a model of 135M, and its head ---- */

static const plx_bench_shape packed_shapes[] = {{.M = 1, .N = 1536, .K = 576}, {.M = 1, .N = 49152, .K = 576},
                                                {.M = 512, .N = 1536, .K = 576}, {.M = 512, .N = 576, .K = 1536}, {0}};
static const plx_bench_shape packed_row_shapes[] = {{.M = TOKENS, .N = 49152, .K = 576}, {0}};

/* Packed rows are whole blocks: other lengths are rounded up. */
static size_t whole_blocks(size_t k) { return (k + PLX_BLOCK - 1) / PLX_BLOCK * PLX_BLOCK; }

/* [n, k] of random numbers, in the form that the case names; deviation about 1 / 20. */
static void *packed_weights(plx_bench_problem *problem, size_t n, size_t k)
{
    const plx_form form = *(const plx_form *)problem->about->user;
    const size_t blocks = k / PLX_BLOCK, block_bytes = plx_form_block_bytes(form);
    size_t bytes = 0;
    if (!plx_form_bytes(form, n, k, &bytes)) problem->status = PLX_ERROR_MEMORY;
    if (problem->dry || problem->status != PLX_OK) return plx_bench_plain(problem, NULL, bytes);
    char *host = plx_alloc(problem->context, bytes);
    plx_random random;
    plx_random_init(&random, 3, 0);
    for (size_t i = 0; host != NULL && i < n * blocks; i++) {
        plx_loose_block block = {.d = form == PLX_FORM_Q8_0 ? 0.0007f : 0.011f, .m = -0.085f};
        for (size_t j = 0; j < PLX_BLOCK; j++) {
            int q = (int)plx_random_below(&random, form == PLX_FORM_Q8_0 ? 255 : 16);
            block.q[j] = (int8_t)(form == PLX_FORM_Q8_0 ? q - 127 : form == PLX_FORM_Q4_0 ? q - 8 : q);
        }
        const size_t row = i / blocks, panel = row / PLX_PANEL_ROWS;
        plx_form_put(form, &block, row % PLX_PANEL_ROWS, host + (panel * blocks + i % blocks) * block_bytes);
    }
    void *weights = host != NULL ? plx_bench_plain(problem, host, bytes) : NULL;
    if (host == NULL) problem->status = PLX_ERROR_MEMORY;
    plx_free(problem->context, host);
    return weights;
}
static plx_status make_packed_matmul(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_packed_matmul_args);
    const size_t k = whole_blocks(s->K);
    *args = (plx_packed_matmul_args){.type = problem->type, .form = *(const plx_form *)problem->about->user,
                                     .weights = packed_weights(problem, s->N, k),
                                     .x = plx_bench_input(problem, s->M * k, 1),
                                     .y = plx_bench_output(problem, s->M * s->N), .m = s->M, .n = s->N, .k = k};
    return problem->status;
}
static plx_status make_packed_rows(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_packed_rows_args);
    const size_t k = whole_blocks(s->K);
    *args = (plx_packed_rows_args){.type = problem->type, .form = *(const plx_form *)problem->about->user,
                                   .weights = packed_weights(problem, s->N, k),
                                   .ids = plx_bench_random_ids(problem, s->M, s->N), .count = s->M, .n = s->N, .k = k,
                                   .y = plx_bench_output(problem, s->M * k)};
    return problem->status;
}
static const plx_form bench_q4_0 = PLX_FORM_Q4_0, bench_q4_1 = PLX_FORM_Q4_1, bench_q8_0 = PLX_FORM_Q8_0;
/* What rounding x to int8 may change is in the tolerance: the reference does not round. */
#define PACKED_CASE(title, form)                                                                                       \
    &(const plx_bench_case){.name = title, .op = &plx_op_packed_matmul, .shapes = packed_shapes, .tolerance = 2e-2,   \
                            .convention = "2 M N K", .make = make_packed_matmul, .user = &(form)}

/* ---- over rows of M tokens, N wide ---- */

static const plx_bench_shape row_shapes[] = {{.M = TOKENS, .N = 256}, {.M = TOKENS, .N = 1024}, {0}};

static plx_status make_column_sum(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_column_sum_args);
    *args = (plx_column_sum_args){problem->type, plx_bench_input(problem, s->M * s->N, 1),
                                  plx_bench_both(problem, s->N, 1), s->M, s->N};
    return problem->status;
}

static plx_norm_args norm_args(plx_bench_problem *problem, const plx_bench_shape *s, void *y, void *rstd)
{
    return (plx_norm_args){.type = problem->type, .epsilon = 1e-5, .rows = s->M, .width = s->N,
                           .x = plx_bench_input(problem, s->M * s->N, 1), .weight = plx_bench_input(problem, s->N, 1),
                           .y = y, .rstd = rstd};
}
static plx_status make_norm_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_norm_args);
    void *y = plx_bench_output(problem, s->M * s->N);
    *args = norm_args(problem, s, y, plx_bench_output(problem, s->M));
    return problem->status;
}
static plx_status make_norm_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_norm_backward_args);
    size_t size = plx_type_size(problem->type);
    void *y = plx_bench_plain(problem, NULL, s->M * s->N * size);
    plx_norm_args forward = norm_args(problem, s, y, plx_bench_plain(problem, NULL, s->M * size));
    *args = (plx_norm_backward_args){.type = problem->type, .rows = s->M, .width = s->N, .x = forward.x,
                                     .weight = forward.weight, .rstd = forward.rstd,
                                     .dy = plx_bench_input(problem, s->M * s->N, 1),
                                     .dx = plx_bench_output(problem, s->M * s->N),
                                     .dweight = plx_bench_both(problem, s->N, 1)};
    problem->bytes -= (double)(s->M * s->N * size); /* y */
    return problem->status != PLX_OK ? problem->status : plx_bench_op(problem, &plx_op_norm_forward, &forward);
}

static const plx_bench_shape rope_shapes[] = {{.B = 8, .T = 256, .H = 4, .d = 64}, {0}};
static plx_status make_rope(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_rope_args);
    size_t tokens = s->B * s->T, pairs = s->d / 2;
    *args = (plx_rope_args){.type = problem->type, .x = plx_bench_both(problem, tokens * s->H * s->d, 1),
                            .tokens = tokens, .heads = s->H, .head_dim = s->d, .pairs = pairs,
                            .position = plx_bench_counts(problem, tokens, 1, s->T),
                            .cosine = plx_bench_input(problem, s->T * pairs, 0.5),
                            .sine = plx_bench_input(problem, s->T * pairs, 0.5), .table_rows = s->T,
                            .frequency = plx_bench_plain(problem, NULL, pairs * sizeof(double))};
    return problem->status;
}

/* ---- elementwise ---- */

static const plx_bench_shape flat_shapes[] = {{.count = (size_t)TOKENS * 1024}, {0}};

static plx_status make_swiglu_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_swiglu_args);
    *args = (plx_swiglu_args){problem->type, s->count, plx_bench_input(problem, s->count, 1),
                              plx_bench_input(problem, s->count, 1), plx_bench_output(problem, s->count)};
    return problem->status;
}
static plx_status make_swiglu_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_swiglu_backward_args);
    *args = (plx_swiglu_backward_args){
        problem->type, s->count, plx_bench_input(problem, s->count, 1), plx_bench_input(problem, s->count, 1),
        plx_bench_input(problem, s->count, 1), plx_bench_output(problem, s->count), plx_bench_output(problem, s->count),
        plx_bench_output(problem, s->count)};
    return problem->status;
}
static plx_status make_gelu_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_gelu_args);
    *args = (plx_gelu_args){problem->type, s->count, plx_bench_input(problem, s->count, 1),
                            plx_bench_output(problem, s->count)};
    return problem->status;
}
static plx_status make_gelu_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_gelu_backward_args);
    *args = (plx_gelu_backward_args){problem->type, s->count, plx_bench_input(problem, s->count, 1),
                                     plx_bench_input(problem, s->count, 1), plx_bench_output(problem, s->count),
                                     plx_bench_output(problem, s->count)};
    return problem->status;
}
static plx_status make_add(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_add_args);
    *args = (plx_add_args){problem->type, s->count, plx_bench_input(problem, s->count, 1),
                           plx_bench_input(problem, s->count, 1), plx_bench_output(problem, s->count), 1, 1};
    return problem->status;
}
static plx_status make_dropout(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_dropout_args);
    *args = (plx_dropout_args){problem->type, s->count, plx_bench_input(problem, s->count, 1),
                               plx_bench_output(problem, s->count), 0.1, 1, 2};
    return problem->status;
}

/* ---- tokens, rows and states ---- */

static const plx_bench_shape embedding_shapes[] = {{.B = 8, .T = 256, .D = 256, .vocab = 8192}, {0}};
static plx_status make_embedding_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_embedding_args);
    size_t tokens = s->B * s->T;
    *args = (plx_embedding_args){problem->type, problem->type, plx_bench_random_ids(problem, tokens, s->vocab), tokens,
                                 s->D, s->vocab, plx_bench_input(problem, s->vocab * s->D, 1),
                                 plx_bench_output(problem, tokens * s->D)};
    return problem->status;
}
static plx_status make_embedding_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_embedding_backward_args);
    size_t tokens = s->B * s->T;
    *args = (plx_embedding_backward_args){problem->type, plx_bench_random_ids(problem, tokens, s->vocab), tokens, s->D,
                                          s->vocab, plx_bench_input(problem, tokens * s->D, 1),
                                          plx_bench_both(problem, s->vocab * s->D, 1)};
    return problem->status;
}
static plx_status make_gather(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_gather_args);
    *args = (plx_gather_args){problem->type, plx_bench_random_ids(problem, s->M, s->M), s->M, s->N,
                              plx_bench_input(problem, s->M * s->N, 1), plx_bench_output(problem, s->M * s->N)};
    return problem->status;
}

static const plx_bench_shape loss_shapes[] = {{.M = 512, .vocab = 8192}, {.M = TOKENS, .vocab = 257}, {0}};
static plx_status make_cross_entropy(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_cross_entropy_args);
    float ones[512];
    for (int i = 0; i < 512; i++) ones[i] = 1;
    float *mask = plx_bench_plain(problem, NULL, s->M * sizeof(float));
    for (size_t i = 0; i < s->M && mask != NULL; i += 512)
        plx_device_upload(problem->context, mask + i, ones, (s->M - i < 512 ? s->M - i : 512) * sizeof(float));
    *args = (plx_cross_entropy_args){
        .type = problem->type, .rows = s->M, .vocab = s->vocab, .logits = plx_bench_both(problem, s->M * s->vocab, 1),
        .targets = plx_bench_random_ids(problem, s->M, s->vocab), .mask = mask, .scale = 1.0 / (double)s->M,
        .gradient = true, .loss = plx_bench_output_of(problem, PLX_F64, s->M),
        .correct = plx_bench_plain(problem, NULL, s->M * sizeof(int32_t))};
    return problem->status;
}

static const plx_bench_shape state_shapes[] = {{.B = 8, .T = 256, .D = 256}, {0}};
static plx_status make_append(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_append_args);
    size_t count = s->B * s->T * s->D;
    *args = (plx_append_args){
        problem->type, plx_bench_sequence(problem, s->B, s->T),
        {.data = plx_bench_output(problem, count), .width = s->D, .row_stride = s->T * s->D},
        plx_bench_input(problem, count, 1)};
    return problem->status;
}
/* The last half of each row moves to its beginning. */
static plx_status make_move(plx_bench_problem *problem, const plx_bench_shape *s)
{
    ARGS(plx_move_args);
    int32_t half = (int32_t)(s->T / 2);
    int32_t *from = plx_bench_plain(problem, NULL, s->B * sizeof half),
            *count = plx_bench_plain(problem, NULL, s->B * sizeof half);
    for (size_t b = 0; b < s->B && count != NULL; b++) {
        plx_device_upload(problem->context, from + b, &half, sizeof half);
        plx_device_upload(problem->context, count + b, &half, sizeof half);
    }
    *args = (plx_move_args){problem->type,
                            {.data = plx_bench_both(problem, s->B * s->T * s->D, 1), .width = s->D,
                             .row_stride = s->T * s->D},
                            s->B, from, count};
    problem->bytes /= 2;
    return problem->status;
}

/* ---- optimiser, at the size of the 8.4M-parameter model ---- */

static const plx_bench_shape weight_shapes[] = {{.count = 8400000}, {0}};
/* A list of one tensor lies behind the arguments. */
static plx_status make_sum_squares(plx_bench_problem *problem, const plx_bench_shape *s)
{
    typedef struct one { plx_sum_squares_args args; plx_squares_tensor tensor; } one;
    _Static_assert(sizeof(one) <= sizeof problem->arguments, "arguments are too small");
    ARGS(one);
    args->tensor = (plx_squares_tensor){s->count, plx_bench_input(problem, s->count, 1)};
    args->args = (plx_sum_squares_args){problem->type, 1, &args->tensor, plx_bench_output_of(problem, PLX_F64, 1)};
    return problem->status;
}
static plx_status make_adamw(plx_bench_problem *problem, const plx_bench_shape *s)
{
    typedef struct one { plx_adamw_args args; plx_adamw_tensor tensor; } one;
    _Static_assert(sizeof(one) <= sizeof problem->arguments, "arguments are too small");
    ARGS(one);
    args->tensor = (plx_adamw_tensor){.count = s->count, .weight = plx_bench_both(problem, s->count, 1),
                                      .m = plx_bench_zeroed(problem, s->count), .v = plx_bench_zeroed(problem, s->count),
                                      .gradient = plx_bench_input(problem, s->count, 1), .decay = 0.1};
    args->args = (plx_adamw_args){.type = problem->type, .tensors = 1, .list = &args->tensor, .grad_scale = 1,
                                  .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .correction1 = 0.1,
                                  .correction2 = 0.05};
    return problem->status;
}

#define CASE(title, operation, part, case_shapes, counted)                                             \
    &(const plx_bench_case){.name = title, .op = &plx_op_##operation, .shapes = case_shapes, .tolerance = 1e-5, \
                            .convention = counted, .make = make_##part}
const plx_bench_case *const plx_shared_bench[] = {
    CASE("matmul.forward", matmul, matmul_forward, forward_shapes, "2 M N K"),
    CASE("matmul.dweight", matmul, matmul_dweight, dweight_shapes, "2 M N K"),
    CASE("matmul.dinput", matmul, matmul_dinput, dinput_shapes, "2 M N K"),
    CASE("matmul.group", matmul_group, matmul_group, group_shapes, "6 M N K"),
    PACKED_CASE("packed_matmul.q4_0", bench_q4_0),
    PACKED_CASE("packed_matmul.q4_1", bench_q4_1),
    PACKED_CASE("packed_matmul.q8_0", bench_q8_0),
    &(const plx_bench_case){.name = "packed_rows", .op = &plx_op_packed_rows, .shapes = packed_row_shapes,
                            .tolerance = 1e-6, .make = make_packed_rows, .user = &bench_q8_0},
    CASE("column_sum", column_sum, column_sum, row_shapes, NULL),
    CASE("norm.forward", norm_forward, norm_forward, row_shapes, NULL),
    CASE("norm.backward", norm_backward, norm_backward, row_shapes, NULL),
    CASE("rope", rope, rope, rope_shapes, NULL),
    CASE("swiglu.forward", swiglu_forward, swiglu_forward, flat_shapes, NULL),
    CASE("swiglu.backward", swiglu_backward, swiglu_backward, flat_shapes, NULL),
    CASE("gelu.forward", gelu_forward, gelu_forward, flat_shapes, NULL),
    CASE("gelu.backward", gelu_backward, gelu_backward, flat_shapes, NULL),
    CASE("add", add, add, flat_shapes, NULL),
    CASE("dropout", dropout, dropout, flat_shapes, NULL),
    CASE("embedding.forward", embedding_forward, embedding_forward, embedding_shapes, NULL),
    CASE("embedding.backward", embedding_backward, embedding_backward, embedding_shapes, NULL),
    CASE("gather", gather, gather, row_shapes, NULL),
    CASE("cross_entropy", cross_entropy, cross_entropy, loss_shapes, NULL),
    CASE("append", append, append, state_shapes, NULL),
    CASE("move", move, move, state_shapes, NULL),
    CASE("sum_squares", sum_squares, sum_squares, weight_shapes, NULL),
    CASE("adamw", adamw, adamw, weight_shapes, NULL),
    NULL};
