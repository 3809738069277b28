/* reduce.c - the product that makes z, and its backward, in double and row by row alike.
 *
 * Why not the shared matmul: a wedge divided by its length turns a difference in the last place between two z into
 * one of order 1. Equal tokens must therefore give equal z to the last bit, in whichever place of whichever batch they
 * stand - also in a step, against z made long before. A BLAS promises nothing like that. Here each element is one sum
 * in one order: lanes along x, cut at fixed places, added in one tree, whether eight tokens or one are worked on. And
 * the gradients: those of a (nearly) repeated pair are up to 10^6 times dw, of opposite sign at its two tokens, and
 * cancel in the weight's gradient; in f32 the rest of the sum would drown in their rounding. Both take double, for a
 * few percent of the layer's work. */
#include "kernels/cpu/parts.h"
#include "kernels/cpu/wide.h"
#include "mixers/grassmann/grassmann_ops.h"

#define TOKENS (PLX_VW == 16 ? 8 : 4) /* of a tile: with 2 vectors each, as many sums as there are registers for */
#define PAIR 2                        /* rows of the weight that TOKENS are multiplied by at once */
#define SINGLE 8                      /* rows of the weight that one token is multiplied by at once */
#define DEPTH ((size_t)512)           /* of one chain of multiply-adds: TOKENS rows of doubles within L1 */
#define CHUNK ((size_t)32)            /* tokens a piece of parallel work; a multiple of TOKENS */
#define COLUMNS ((size_t)PLX_VW)      /* two vectors of doubles: of the backward's pieces */
#define BLOCK ((size_t)64)            /* tokens of the weight gradient's inner product */
#define STRIDE (DEPTH + VD_LANES)     /* of rows of x: not a power of two, which would put them all in one set of L1 */
#define INPUT_TOKENS ((size_t)128)    /* tokens a piece of dx */

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Two vectors of doubles: COLUMNS numbers, those from `left` on 0. */
INLINE void widen_columns(const float *from, size_t left, double *to)
{
    vd_store(to, vd_widen_next(from, left));
    vd_store(to + VD_LANES, vd_widen_next(from + least(left, VD_LANES), left > VD_LANES ? left - VD_LANES : 0));
}

/* The weight as f32, which holds every 16-bit number: itself, or a copy in `memory`. */
static const float *weight_as_f32(const void *weight, plx_type type, size_t count, float *memory)
{
    if (type == PLX_F32) return weight;
    for (size_t i = 0; i < count; i++) memory[i] = (float)plx_get(weight, type, i);
    return memory;
}

/* ---- forward: z = x W^T + b ---- */

typedef struct forward_work {
    const plx_grassmann_reduce_args *args;
    const float *weight; /* [rank, width] */
    const double *bias;  /* [rank] */
    double *memory;      /* a thread's x [TOKENS, STRIDE] and sums [TOKENS, rank] */
} forward_work;

/* sums[i * rank + j] += x_i . w_j over `depth` numbers, for `tokens` rows x [STRIDE] and `rows` of the weight, both
 * constants once inlined. Each is a chain of multiply-adds a lane, then a tree over the lanes. */
INLINE void products(const double *x, const float *const w[], size_t depth, double *sums, size_t rank,
                     const size_t tokens, const size_t rows)
{
    vd sum[TOKENS * PAIR];
    for (size_t n = 0; n < tokens * rows; n++) sum[n] = (vd){0};
    for (size_t d = 0; d < depth; d += VD_LANES) {
        vd wide[SINGLE];
        for (size_t j = 0; j < rows; j++) wide[j] = vd_widen_next(w[j] + d, depth - d);
        for (size_t i = 0; i < tokens; i++)
            for (size_t j = 0; j < rows; j++) sum[i * rows + j] += vd_load(x + i * STRIDE + d) * wide[j];
    }
    double each[TOKENS * PAIR];
    for (size_t n = 0; n < tokens * rows; n += VD_LANES) vd_store(each + n, vd_sums(sum + n));
    for (size_t i = 0; i < tokens; i++)
        for (size_t j = 0; j < rows; j++) sums[i * rank + j] += each[i * rows + j];
}

/* Numbers [from, from + depth) of `count` rows against `step` rows of the weight from r on. */
INLINE void multiply_step(const forward_work *work, const double *x, size_t from, size_t depth, size_t count,
                          double *sums, size_t stride, size_t r, const size_t step)
{
    const float *w[SINGLE];
    for (size_t j = 0; j < step; j++)
        w[j] = work->weight + least(r + j, work->args->rank - 1) * work->args->width + from;
    if (step == PAIR)
        products(x, w, depth, sums, stride, TOKENS, PAIR);
    else
        for (size_t i = 0; i < count; i++) products(x + i * STRIDE, w, depth, sums + i * stride, stride, 1, SINGLE);
}

/* The same against all of them. Where the last step exceeds them it takes the last row again and throws it away. */
INLINE void multiply(const forward_work *work, const double *x, size_t from, size_t depth, size_t count, double *sums,
                     const size_t step)
{
    size_t rank = work->args->rank, r = 0;
    for (; r + step <= rank; r += step) multiply_step(work, x, from, depth, count, sums + r, rank, r, step);
    if (r == rank) return;
    double spare[TOKENS * SINGLE] = {0};
    multiply_step(work, x, from, depth, count, spare, step, r, step);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; r + j < rank; j++) sums[i * rank + r + j] += spare[i * step + j];
}

static void forward_tile(const forward_work *work, size_t token, size_t count, double *memory)
{
    const plx_grassmann_reduce_args *args = work->args;
    double *x = memory, *sums = memory + TOKENS * STRIDE;
    for (size_t i = 0; i < count * args->rank; i++) sums[i] = 0;
    for (size_t from = 0; from < args->width; from += DEPTH) {
        size_t depth = least(DEPTH, args->width - from);
        for (size_t i = 0; i < count; i++) {
            const float *row = (const float *)args->x + (token + i) * args->width + from;
            for (size_t d = 0; d < depth; d += VD_LANES) {
                __builtin_prefetch(row + TOKENS * args->width + d); /* of the next tile */
                vd_store(x + i * STRIDE + d, vd_widen_next(row + d, depth - d));
            }
        }
        if (count == TOKENS)
            multiply(work, x, from, depth, count, sums, PAIR);
        else
            multiply(work, x, from, depth, count, sums, SINGLE);
    }
    float *z = (float *)args->z + token * args->rank;
    for (size_t i = 0; i < count; i++)
        for (size_t r = 0; r < args->rank; r++)
            z[i * args->rank + r] = (float)(sums[i * args->rank + r] + work->bias[r]);
}

static void forward_chunk(void *argument, size_t index, int thread)
{
    const forward_work *work = argument;
    size_t end = plx_part_end(work->args->tokens, CHUNK, index);
    double *memory = work->memory + (size_t)thread * TOKENS * (STRIDE + work->args->rank);
    for (size_t token = index * CHUNK; token < end; token += TOKENS)
        forward_tile(work, token, least(TOKENS, end - token), memory);
}

plx_status PLX_CPU(plx_grassmann_reduce_forward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_reduce_args *args = arguments;
    size_t numbers = (size_t)context->options.threads * TOKENS * (STRIDE + args->rank);
    size_t weights = args->weight_type == PLX_F32 ? 0 : args->rank * args->width;
    double *bias = plx_kernel_scratch(context, (args->rank + numbers) * sizeof(double) + weights * sizeof(float));
    if (bias == NULL) return PLX_ERROR_MEMORY;
    for (size_t r = 0; r < args->rank; r++) bias[r] = plx_get(args->bias, args->weight_type, r);
    forward_work work = {.args = args, .bias = bias, .memory = bias + args->rank};
    work.weight = weight_as_f32(args->weight, args->weight_type, weights, (float *)(work.memory + numbers));
    plx_parallel_for(context, plx_parts(args->tokens, CHUNK), forward_chunk, &work);
    return PLX_OK;
}

/* ---- backward: dx += dz W; dW += dz^T x, db += the sum of dz ---- */

typedef struct backward_work {
    const plx_grassmann_reduce_backward_args *args;
    const float *weight; /* [rank, width] */
    double *memory;      /* a thread's columns [rank, COLUMNS] of W or dW, and of x [BLOCK, COLUMNS] */
} backward_work;

static double *thread_memory(const backward_work *work, int thread)
{
    return work->memory + (size_t)thread * (work->args->rank + BLOCK) * COLUMNS;
}

/* to[i][COLUMNS] += sum over k of left[i * row + k * column] right[k][COLUMNS], for `rows` rows, a constant once
 * inlined. */
INLINE void add_products(const double *left, size_t row, size_t column, const double *right, size_t depth, double *to,
                         const size_t rows)
{
    vd sum[TOKENS][2];
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) sum[i][h] = vd_load(to + i * COLUMNS + h * VD_LANES);
    for (size_t k = 0; k < depth; k++) {
        vd low = vd_load(right + k * COLUMNS), high = vd_load(right + k * COLUMNS + VD_LANES);
        for (size_t i = 0; i < rows; i++) {
            vd factor = vd_set(left[i * row + k * column]);
            sum[i][0] += factor * low;
            sum[i][1] += factor * high;
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) vd_store(to + i * COLUMNS + h * VD_LANES, sum[i][h]);
}

static void add_all_products(const double *left, size_t row, size_t column, const double *right, size_t depth,
                             double *to, size_t rows)
{
    size_t i = 0;
    for (; i + TOKENS <= rows; i += TOKENS)
        add_products(left + i * row, row, column, right, depth, to + i * COLUMNS, TOKENS);
    for (; i < rows; i++) add_products(left + i * row, row, column, right, depth, to + i * COLUMNS, 1);
}

static void add_rounded(float *to, const double *from, size_t count)
{
    for (size_t i = 0; i < count; i++) to[i] = (float)(to[i] + from[i]);
}

/* dx of INPUT_TOKENS tokens. Pieces are whole rows: two threads that write neighbouring lines hinder each other. */
static void input_piece(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    const plx_grassmann_reduce_backward_args *args = work->args;
    size_t rank = args->rank, end = plx_part_end(args->tokens, INPUT_TOKENS, index);
    double *weight = thread_memory(work, thread), sums[BLOCK * COLUMNS];
    for (size_t first = 0; first < args->width; first += COLUMNS) {
        size_t count = least(COLUMNS, args->width - first);
        for (size_t r = 0; r < rank; r++)
            widen_columns(work->weight + r * args->width + first, count, weight + r * COLUMNS);
        for (size_t token = index * INPUT_TOKENS; token < end; token += BLOCK) {
            size_t tokens = least(BLOCK, end - token);
            memset(sums, 0, sizeof sums);
            add_all_products(args->dz + token * rank, rank, 1, weight, rank, sums, tokens);
            for (size_t t = 0; t < tokens; t++) {
                float *dx = (float *)args->dx + (token + t) * args->width + first;
                __builtin_prefetch(dx + 2 * COLUMNS, 1); /* strides like these defeat the processor's own */
                add_rounded(dx, sums + t * COLUMNS, count);
            }
        }
    }
}

/* dW of COLUMNS columns */
static void weight_piece(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    const plx_grassmann_reduce_backward_args *args = work->args;
    size_t first = index * COLUMNS, count = least(COLUMNS, args->width - first), rank = args->rank;
    double *sums = thread_memory(work, thread), *x = sums + rank * COLUMNS;
    memset(sums, 0, rank * COLUMNS * sizeof(double));
    for (size_t token = 0; token < args->tokens; token += BLOCK) {
        size_t tokens = least(BLOCK, args->tokens - token);
        for (size_t t = 0; t < tokens; t++) {
            const float *row = (const float *)args->x + (token + t) * args->width + first;
            __builtin_prefetch(row + BLOCK * args->width);
            widen_columns(row, count, x + t * COLUMNS);
        }
        add_all_products(args->dz + token * rank, 1, rank, x, tokens, sums, rank);
    }
    for (size_t r = 0; r < rank; r++)
        add_rounded((float *)args->dweight + r * args->width + first, sums + r * COLUMNS, count);
}

static void sum_bias(const plx_grassmann_reduce_backward_args *args, double *sum)
{
    memset(sum, 0, args->rank * sizeof(double));
    for (size_t token = 0; token < args->tokens; token++)
        for (size_t r = 0; r < args->rank; r++) sum[r] += args->dz[token * args->rank + r];
    add_rounded(args->dbias, sum, args->rank);
}

plx_status PLX_CPU(plx_grassmann_reduce_backward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_reduce_backward_args *args = arguments;
    size_t numbers = (size_t)context->options.threads * (args->rank + BLOCK) * COLUMNS;
    size_t weights = args->weight_type == PLX_F32 ? 0 : args->rank * args->width;
    backward_work work = {.args = args};
    work.memory = plx_kernel_scratch(context, numbers * sizeof(double) + weights * sizeof(float));
    if (work.memory == NULL) return PLX_ERROR_MEMORY;
    work.weight = weight_as_f32(args->weight, args->weight_type, weights, (float *)(work.memory + numbers));
    plx_parallel_for(context, plx_parts(args->tokens, INPUT_TOKENS), input_piece, &work);
    if (args->dweight != NULL) plx_parallel_for(context, plx_parts(args->width, COLUMNS), weight_piece, &work);
    if (args->dbias != NULL) sum_bias(args, work.memory);
    return PLX_OK;
}
