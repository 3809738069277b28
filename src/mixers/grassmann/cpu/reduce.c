/* reduce.c - the product that makes z, and its backward, in double and row by row alike.
 *
 * Why not the shared matmul: a wedge divided by its length turns a difference in the last place between two z into
 * one of order 1. Equal tokens must therefore give equal z to the last bit, in whichever place of whichever batch they
 * stand - also in a step, against z made long before. A BLAS promises nothing like that: rows at the edge of a tile,
 * and products with one row, take other code. Here each element is one sum in one order; blocks that stick out beyond
 * the tokens repeat the last one instead of taking another path. And the gradients: those of a (nearly) repeated pair
 * are up to 10^6 times dw, of opposite sign at its two tokens, and cancel in the weight's gradient; in f32 the rest of
 * the sum would drown in their rounding. Both take double, for a few percent of the layer's work. */
#include "kernels/cpu/vec.h"
#include "mixers/grassmann/cpu/wide.h"
#include "mixers/grassmann/grassmann_ops.h"

#define BLOCK 4          /* tokens, and rows of the weight, worked on at once */
#define CHUNK 32         /* tokens a piece of parallel work; a multiple of BLOCK */
#define COLUMNS PLX_VW   /* of the weight's gradient, a piece of parallel work */

/* Rows of any type as doubles, each `padded` long, zero from `width` on. */
static void widen_rows(const void *from, plx_type type, size_t rows, size_t width, size_t padded, double *to)
{
    for (size_t i = 0; i < rows; i++, to += padded) {
        if (type == PLX_F32)
            for (size_t j = 0; j < width; j++) to[j] = ((const float *)from)[i * width + j];
        else
            for (size_t j = 0; j < width; j++) to[j] = plx_get(from, type, i * width + j);
        for (size_t j = width; j < padded; j++) to[j] = 0;
    }
}

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- forward: z = x W^T + b ---- */

typedef struct forward_work {
    const plx_grassmann_reduce_args *args;
    size_t padded;
    const double *weight; /* [rank, padded] */
    const double *bias;   /* [rank] */
    double *x;            /* [threads, BLOCK, padded] */
} forward_work;

/* sums[i][j] = x_i . w_j for BLOCK vectors each. */
static void products(const double *const x[BLOCK], const double *const w[BLOCK], size_t padded,
                     double sums[BLOCK][BLOCK])
{
    vd sum[BLOCK][BLOCK] = {{{0}}};
    for (size_t d = 0; d < padded; d += LANES)
        for (size_t i = 0; i < BLOCK; i++)
            for (size_t j = 0; j < BLOCK; j++) sum[i][j] += vd_load(x[i] + d) * vd_load(w[j] + d);
    for (size_t i = 0; i < BLOCK; i++)
        for (size_t j = 0; j < BLOCK; j++) sums[i][j] = vd_sum(sum[i][j]);
}

static void forward_block(const forward_work *work, size_t token, double *x)
{
    const plx_grassmann_reduce_args *args = work->args;
    size_t rank = args->rank, count = least(BLOCK, args->tokens - token);
    const double *rows[BLOCK], *weights[BLOCK];
    float *z = (float *)args->z + token * rank;
    widen_rows((const float *)args->x + token * args->width, PLX_F32, count, args->width, work->padded, x);
    for (size_t i = 0; i < BLOCK; i++) rows[i] = x + least(i, count - 1) * work->padded;
    for (size_t r = 0; r < rank; r += BLOCK) {
        double sums[BLOCK][BLOCK];
        for (size_t j = 0; j < BLOCK; j++) weights[j] = work->weight + least(r + j, rank - 1) * work->padded;
        products(rows, weights, work->padded, sums);
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < least(BLOCK, rank - r); j++)
                z[i * rank + r + j] = (float)(sums[i][j] + work->bias[r + j]);
    }
}

static void forward_chunk(void *argument, size_t index, int thread)
{
    const forward_work *work = argument;
    size_t end = least((index + 1) * CHUNK, work->args->tokens);
    for (size_t token = index * CHUNK; token < end; token += BLOCK)
        forward_block(work, token, work->x + (size_t)thread * BLOCK * work->padded);
}

plx_status PLX_CPU(plx_grassmann_reduce_forward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_reduce_args *args = arguments;
    size_t padded = (args->width + LANES - 1) / LANES * LANES, pieces = (size_t)context->options.threads * BLOCK;
    double *scratch = plx_kernel_scratch(context, ((args->rank + pieces) * padded + args->rank) * sizeof(double));
    if (scratch == NULL) return PLX_ERROR_MEMORY;
    double *bias = scratch + args->rank * padded;
    widen_rows(args->weight, args->weight_type, args->rank, args->width, padded, scratch);
    widen_rows(args->bias, args->weight_type, 1, args->rank, args->rank, bias);
    forward_work work = {args, padded, scratch, bias, bias + args->rank};
    plx_parallel_for(context, (args->tokens + CHUNK - 1) / CHUNK, forward_chunk, &work);
    return PLX_OK;
}

/* ---- backward: dx += dz W; dW += dz^T x, db += the sum of dz ---- */

typedef struct backward_work {
    const plx_grassmann_reduce_backward_args *args;
    size_t padded;
    const double *weight; /* [rank, padded] */
    double *sums;         /* [threads, BLOCK, padded], or [threads, rank, COLUMNS] */
} backward_work;

static void input_block(const backward_work *work, size_t token, double *sums)
{
    const plx_grassmann_reduce_backward_args *args = work->args;
    size_t count = least(BLOCK, args->tokens - token), padded = work->padded;
    const double *dz[BLOCK];
    for (size_t i = 0; i < BLOCK; i++) dz[i] = args->dz + (token + least(i, count - 1)) * args->rank;
    for (size_t d = 0; d < padded; d += LANES) {
        vd sum[BLOCK] = {{0}};
        for (size_t r = 0; r < args->rank; r++) {
            vd weight = vd_load(work->weight + r * padded + d);
            for (size_t i = 0; i < BLOCK; i++) sum[i] += vd_set(dz[i][r]) * weight;
        }
        for (size_t i = 0; i < BLOCK; i++) vd_store(sums + i * padded + d, sum[i]);
    }
    for (size_t i = 0; i < count; i++) {
        float *dx = (float *)args->dx + (token + i) * args->width;
        for (size_t d = 0; d < args->width; d++) dx[d] = (float)(dx[d] + sums[i * padded + d]);
    }
}

static void input_chunk(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    size_t end = least((index + 1) * CHUNK, work->args->tokens);
    for (size_t token = index * CHUNK; token < end; token += BLOCK)
        input_block(work, token, work->sums + (size_t)thread * BLOCK * work->padded);
}

/* Columns index * COLUMNS .. of dW: for every token in order, sum[r, :] += dz_r x[columns]. */
static void weight_columns(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    const plx_grassmann_reduce_backward_args *args = work->args;
    size_t first = index * COLUMNS, count = least(COLUMNS, args->width - first), rank = args->rank;
    double *sum = work->sums + (size_t)thread * rank * COLUMNS, x[COLUMNS] = {0};
    memset(sum, 0, rank * COLUMNS * sizeof(double));
    for (size_t token = 0; token < args->tokens; token++) {
        const float *row = (const float *)args->x + token * args->width + first;
        for (size_t d = 0; d < count; d++) x[d] = row[d];
        vd low = vd_load(x), high = vd_load(x + LANES);
        for (size_t r = 0; r < rank; r++) {
            vd dz = vd_set(args->dz[token * rank + r]);
            vd_store(sum + r * COLUMNS, vd_load(sum + r * COLUMNS) + dz * low);
            vd_store(sum + r * COLUMNS + LANES, vd_load(sum + r * COLUMNS + LANES) + dz * high);
        }
    }
    for (size_t r = 0; r < rank; r++) {
        float *dweight = (float *)args->dweight + r * args->width + first;
        for (size_t d = 0; d < count; d++) dweight[d] = (float)(dweight[d] + sum[r * COLUMNS + d]);
    }
}

static void sum_bias(const plx_grassmann_reduce_backward_args *args, double *sum)
{
    memset(sum, 0, args->rank * sizeof(double));
    for (size_t token = 0; token < args->tokens; token++)
        for (size_t r = 0; r < args->rank; r++) sum[r] += args->dz[token * args->rank + r];
    for (size_t r = 0; r < args->rank; r++) ((float *)args->dbias)[r] = (float)(((float *)args->dbias)[r] + sum[r]);
}

plx_status PLX_CPU(plx_grassmann_reduce_backward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_reduce_backward_args *args = arguments;
    size_t threads = (size_t)context->options.threads, padded = (args->width + LANES - 1) / LANES * LANES;
    size_t piece = BLOCK * padded > args->rank * COLUMNS ? BLOCK * padded : args->rank * COLUMNS;
    double *scratch = plx_kernel_scratch(context, (args->rank * padded + threads * piece) * sizeof(double));
    if (scratch == NULL) return PLX_ERROR_MEMORY;
    widen_rows(args->weight, args->weight_type, args->rank, args->width, padded, scratch);
    backward_work work = {args, padded, scratch, scratch + args->rank * padded};
    plx_parallel_for(context, (args->tokens + CHUNK - 1) / CHUNK, input_chunk, &work);
    if (args->dweight != NULL)
        plx_parallel_for(context, (args->width + COLUMNS - 1) / COLUMNS, weight_columns, &work);
    if (args->dbias != NULL) sum_bias(args, work.sums);
    return PLX_OK;
}
