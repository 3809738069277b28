/* blas.c - matrix products in f32 through cblas_sgemm.
 *
 * BLAS runs on one thread (the context sees to that) inside our own split: C is cut into tiles by shape, each is one
 * call over the whole of k, so that the result does not depend on the number of threads. Operands of 16 bits are first
 * converted to f32. */
#include "kernels/half.h"
#include "kernels/kernels.h"

#include <cblas.h>
#include <limits.h>
#include <string.h>

/* A row of C = A B^T must not depend on the other rows: a step is then equal to forward, and a prompt in a batch to the
 * prompt alone, to the last bits that later layers may blow up. Of OpenBLAS's kernels the one for AVX-512 keeps that
 * promise but for small products (measured: C of up to about 1,200 elements), which it hands to other code: there A's
 * rows are padded until C has this many. Its other kernels (Haswell, Zen, Nehalem) compute a row differently by its
 * place; where they run, these products are left to cpu/matmul.c. */
#define LEAST_TILE ((size_t)2048)

typedef struct matmul_job {
    const plx_matmul_args *a;
    float *padded;      /* a thread's copies of A's rows and C's, each padded_size elements; or NULL */
    size_t padded_size;
    const float *left, *right, *bias; /* operands in f32 */
    size_t lda, ldb;
    size_t tile_rows, tile_columns, tiles_across;
} matmul_job;

static bool blas_type(plx_type type) { return type == PLX_F32 || type == PLX_BF16 || type == PLX_F16; }

static bool rows_are_independent(void) { return strcmp(openblas_get_corename(), "SkylakeX") == 0; }

bool plx_matmul_blas_accepts(const void *arguments)
{
    const plx_matmul_args *a = arguments;
    if (a->transpose_b && !a->transpose_a && !rows_are_independent()) return false;
    size_t a_width = a->transpose_a ? a->m : a->k, b_width = a->transpose_b ? a->k : a->n;
    return blas_type(a->a_type) && blas_type(a->b_type) && blas_type(a->bias_type) && a->c_type == PLX_F32 &&
           a->m <= INT_MAX && a->n <= INT_MAX && a->k <= INT_MAX && a->lda <= INT_MAX && a->ldb <= INT_MAX &&
           a->ldc <= INT_MAX && a->lda >= a_width && a->ldb >= b_width && a->ldc >= a->n;
}

/* ---- operands of 16 bits ---- */

typedef struct convert_job {
    const uint16_t *from;
    float *to; /* dense */
    size_t width, stride;
    plx_type type;
} convert_job;

static void convert_row(void *argument, size_t index, int thread)
{
    (void)thread;
    const convert_job *job = argument;
    const uint16_t *from = job->from + index * job->stride;
    float *to = job->to + index * job->width;
    if (job->type == PLX_BF16)
        for (size_t i = 0; i < job->width; i++) to[i] = plx_float_of_bf16(from[i]);
    else
        for (size_t i = 0; i < job->width; i++) to[i] = plx_float_of_f16(from[i]);
}

/* The operand as f32: itself, or converted into *scratch, which is moved on. */
static const float *as_f32(plx_context *context, plx_type type, const void *data, size_t rows, size_t width,
                           size_t *stride, float **scratch)
{
    if (type == PLX_F32) return data;
    convert_job job = {.from = data, .to = *scratch, .width = width, .stride = *stride, .type = type};
    plx_parallel_for(context, rows, convert_row, &job);
    *stride = width;
    *scratch += rows * width;
    return job.to;
}

/* ---- tiles ---- */

static void add_bias(const matmul_job *job, float *c, size_t rows, size_t columns, const float *bias)
{
    if (!job->bias) return;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) c[i * job->a->ldc + j] += bias[j];
}

static size_t padded_rows(size_t columns) { return (LEAST_TILE + columns - 1) / columns; }

/* A small tile, as the top of one with enough rows. */
static void padded_tile(const matmul_job *job, float *memory, const float *left, const float *right, float *c,
                        size_t rows, size_t columns)
{
    const plx_matmul_args *a = job->a;
    size_t all = padded_rows(columns);
    float *x = memory, *y = memory + all * a->k, beta = (float)a->beta;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < a->k; k++)
            x[i * a->k + k] = a->transpose_a ? left[k * job->lda + i] : left[i * job->lda + k];
    memset(x + rows * a->k, 0, (all - rows) * a->k * sizeof *x);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)all, (int)columns, (int)a->k, 1, x, (int)a->k, right,
                (int)job->ldb, 0, y, (int)columns);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            c[i * a->ldc + j] = (beta == 0 ? 0 : beta * c[i * a->ldc + j]) + y[i * columns + j];
}

static void matmul_tile(void *argument, size_t index, int thread)
{
    const matmul_job *job = argument;
    const plx_matmul_args *a = job->a;
    size_t row = index / job->tiles_across * job->tile_rows, column = index % job->tiles_across * job->tile_columns;
    size_t rows = a->m - row < job->tile_rows ? a->m - row : job->tile_rows;
    size_t columns = a->n - column < job->tile_columns ? a->n - column : job->tile_columns;
    const float *left = job->left + row * (a->transpose_a ? 1 : job->lda);
    const float *right = job->right + column * (a->transpose_b ? job->ldb : 1);
    float *c = (float *)a->c + row * a->ldc + column, beta = (float)a->beta;
    if (a->transpose_b && rows * columns < LEAST_TILE)
        padded_tile(job, job->padded + (size_t)thread * job->padded_size, left, right, c, rows, columns);
    else
        cblas_sgemm(CblasRowMajor, a->transpose_a ? CblasTrans : CblasNoTrans,
                    a->transpose_b ? CblasTrans : CblasNoTrans, (int)rows, (int)columns, (int)a->k, 1, left,
                    (int)job->lda, right, (int)job->ldb, beta, c, (int)a->ldc);
    add_bias(job, c, rows, columns, job->bias ? job->bias + column : NULL);
}

/* Tiles of about 256 x 512, smaller until there are 8 of them (4 where they are small already): each tile packs its
 * rows of A and columns of B anew, which below 64 x 128 costs as much as the product. Short products stay whole. */
static void choose_tiles(matmul_job *job)
{
    const plx_matmul_args *a = job->a;
    size_t rows = a->m < 256 ? a->m : 256, columns = a->n < 512 ? a->n : 512;
    for (;;) {
        size_t tiles = ((a->m + rows - 1) / rows) * ((a->n + columns - 1) / columns);
        if (tiles >= 8 || (tiles >= 4 && rows * columns <= 64 * 128) || rows * columns <= 64 * 64) break;
        if (rows * columns / 2 * a->k < ((size_t)1 << 19)) break;
        if (rows > columns)
            rows = (rows / 2 + 15) / 16 * 16;
        else
            columns = (columns / 2 + 15) / 16 * 16;
    }
    job->tile_rows = rows;
    job->tile_columns = columns;
    job->tiles_across = (a->n + columns - 1) / columns;
}

/* C = beta * C + bias */
static void empty_product(const plx_matmul_args *a, const float *bias)
{
    for (size_t i = 0; i < a->m; i++) {
        float *c = (float *)a->c + i * a->ldc;
        for (size_t j = 0; j < a->n; j++) c[j] = (a->beta == 0 ? 0 : (float)a->beta * c[j]) + (bias ? bias[j] : 0);
    }
}

plx_status plx_matmul_blas(plx_context *context, const void *arguments)
{
    const plx_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    matmul_job job = {.a = a, .lda = a->lda, .ldb = a->ldb};
    choose_tiles(&job);
    if (a->transpose_b) { /* the narrowest tile needs most */
        size_t least = a->n % job.tile_columns != 0 ? a->n % job.tile_columns : job.tile_columns;
        size_t rows = a->m % job.tile_rows != 0 ? a->m % job.tile_rows : job.tile_rows;
        if (rows * least < LEAST_TILE)
            job.padded_size = (padded_rows(least) * (a->k + least) + LEAST_TILE + 15) / 16 * 16;
    }
    size_t a_rows = a->transpose_a ? a->k : a->m, a_width = a->transpose_a ? a->m : a->k;
    size_t b_rows = a->transpose_b ? a->n : a->k, b_width = a->transpose_b ? a->k : a->n;
    size_t converted = (a->a_type != PLX_F32 ? a_rows * a_width : 0) + (a->b_type != PLX_F32 ? b_rows * b_width : 0) +
                       (a->bias && a->bias_type != PLX_F32 ? a->n : 0);
    float *scratch = NULL;
    size_t padded = job.padded_size * (size_t)context->options.threads;
    if (converted + padded > 0) {
        scratch = plx_kernel_scratch(context, (converted + padded) * sizeof(float));
        if (!scratch) return PLX_ERROR_MEMORY;
        job.padded = scratch;
        scratch += padded;
    }
    size_t bias_stride = a->n;
    if (a->bias) job.bias = as_f32(context, a->bias_type, a->bias, 1, a->n, &bias_stride, &scratch);
    if (a->k == 0) {
        empty_product(a, job.bias);
        return PLX_OK;
    }
    job.left = as_f32(context, a->a_type, a->a, a_rows, a_width, &job.lda, &scratch);
    job.right = as_f32(context, a->b_type, a->b, b_rows, b_width, &job.ldb, &scratch);
    plx_parallel_for(context, (a->m + job.tile_rows - 1) / job.tile_rows * job.tiles_across, matmul_tile, &job);
    return PLX_OK;
}
