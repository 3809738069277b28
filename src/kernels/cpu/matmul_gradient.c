/* matmul_gradient.c - C = beta C + A^T op(B) + bias in f32: the weight gradient of a linear layer, where k, the tokens,
 * is long and C small.
 *
 * C is cut into blocks that stay in the second-level cache; a task goes through its share of k in steps of
 * PRODUCT_DEPTH, packs that step's part of both operands - read row by row, as they lie in memory - and adds their
 * product to the block. Where C has fewer blocks than TASKS, k is divided too: the parts are then summed in order. */
#include "kernels/cpu/product.h"

#define BLOCK_ROWS ((size_t)280)
#define BLOCK_COLUMNS ((size_t)256)
#define TASKS ((size_t)4)
#define LEAST_SHARE ((size_t)512) /* of k */

typedef struct gradient {
    const plx_matmul_args *a;
    float *memory; /* of the threads, `size` each: packed A and B */
    size_t size, left_size;
    float *parts; /* [shares][m][n], or NULL: into C */
    const float *bias;
    size_t block_rows, block_columns, down, across, shares, share; /* share: of k */
} gradient;

/* k in [from, to) of A's columns of one block: [tile][k][PRODUCT_LANES]. */
static void pack_left(const plx_matmul_args *a, size_t row, size_t rows, size_t from, size_t to, float *left)
{
    for (size_t k = from; k < to; k++)
        for (size_t i = 0; i < rows; i += PRODUCT_ROWS)
            for (size_t j = 0; j < PRODUCT_LANES; j += PLX_VW)
                if (i + j < rows)
                    vf_store(left + (i / PRODUCT_ROWS * PRODUCT_DEPTH + k - from) * PRODUCT_LANES + j,
                             product_load(a->a, a->a_type, k * a->lda + row + i + j, a->m - row - i - j));
}

static void task(void *argument, size_t index, int thread)
{
    const gradient *job = argument;
    const plx_matmul_args *a = job->a;
    size_t row = index / job->across % job->down * job->block_rows, column = index % job->across * job->block_columns;
    size_t share = index / job->across / job->down, begin = share * job->share;
    size_t end = product_least(a->k, begin + job->share);
    size_t rows = product_least(a->m - row, job->block_rows),
           columns = product_least(a->n - column, job->block_columns);
    float *left = job->memory + (size_t)thread * job->size, *right = left + job->left_size;
    float *c = job->parts != NULL ? job->parts + share * a->m * a->n : a->c;
    size_t ldc = job->parts != NULL ? a->n : a->ldc, from = begin;
    float beta = job->parts != NULL ? 0 : (float)a->beta;
    do { /* once also where k is 0 */
        size_t to = product_least(end, from + PRODUCT_DEPTH);
        for (size_t j = 0; j < columns; j += PRODUCT_COLUMNS)
            product_pack_right(a, column + j, from, to, right + j * PRODUCT_DEPTH);
        pack_left(a, row, rows, from, to, left);
        for (size_t i = 0; i < rows; i += PRODUCT_ROWS)
            for (size_t j = 0; j < columns; j += PRODUCT_COLUMNS) {
                product_store store = {.c = c + (row + i) * ldc + column + j,
                                       .ldc = ldc,
                                       .width = product_least(columns - j, PRODUCT_COLUMNS),
                                       .read = from > begin || beta != 0,
                                       .scale = from > begin ? 1 : beta,
                                       .bias = from > begin || job->bias == NULL ? NULL : job->bias + column + j};
                product_rows(left + i / PRODUCT_ROWS * PRODUCT_DEPTH * PRODUCT_LANES, 1, PRODUCT_LANES,
                             right + j * PRODUCT_DEPTH, to - from, &store, product_least(rows - i, PRODUCT_ROWS));
            }
        from = to;
    } while (from < end);
}

/* A row of C = beta C + the parts, in order. */
static void sum_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const gradient *job = argument;
    const plx_matmul_args *a = job->a;
    float *c = (float *)a->c + row * a->ldc;
    for (size_t j = 0; j < a->n; j += PLX_VW) {
        vf sum = a->beta == 0 ? vf_set(0) : vf_set((float)a->beta) * vf_next(c + j, a->n - j);
        for (size_t s = 0; s < job->shares; s++) sum += vf_next(job->parts + (s * a->m + row) * a->n + j, a->n - j);
        vf_put(c + j, sum, a->n - j);
    }
}

/* The number of blocks is a power of two, for threads to have equally many. */
static size_t block_of(size_t count, size_t unit, size_t most)
{
    size_t units = plx_parts(count, unit), blocks = 1;
    while (plx_parts(units, blocks) * unit > most) blocks *= 2;
    return plx_parts(units, blocks) * unit;
}

plx_status PLX_CPU(plx_matmul_gradient)(plx_context *context, const plx_matmul_args *a)
{
    gradient job = {.a = a, .shares = 1, .share = a->k};
    job.block_rows = block_of(a->m, PRODUCT_ROWS, BLOCK_ROWS);
    job.block_columns = block_of(a->n, PRODUCT_COLUMNS, BLOCK_COLUMNS);
    job.down = plx_parts(a->m, job.block_rows);
    job.across = plx_parts(a->n, job.block_columns);
    if (a->bias == NULL && job.down * job.across < TASKS && a->k >= 2 * LEAST_SHARE) {
        size_t shares = product_least(plx_parts(TASKS, job.down * job.across), a->k / LEAST_SHARE);
        job.share = plx_parts(plx_parts(a->k, shares), PRODUCT_DEPTH) * PRODUCT_DEPTH;
        job.shares = plx_parts(a->k, job.share);
    }
    job.left_size = plx_parts(job.block_rows, PRODUCT_ROWS) * PRODUCT_DEPTH * PRODUCT_LANES;
    job.size = job.left_size + job.block_columns * PRODUCT_DEPTH;
    size_t packed = (size_t)context->options.threads * job.size,
           bias = plx_parts(a->n, PRODUCT_COLUMNS) * PRODUCT_COLUMNS;
    size_t parts = job.shares > 1 ? job.shares * a->m * a->n : 0;
    job.memory = plx_kernel_scratch(context, (packed + bias + parts) * sizeof(float));
    if (job.memory == NULL) return PLX_ERROR_MEMORY;
    if (a->bias != NULL) {
        float *padded = job.memory + packed;
        for (size_t j = 0; j < bias; j += PLX_VW)
            vf_store(padded + j, j < a->n ? product_load(a->bias, a->bias_type, j, a->n - j) : vf_set(0));
        job.bias = padded;
    }
    if (job.shares > 1) job.parts = job.memory + packed + bias;
    plx_parallel_for(context, job.down * job.across * job.shares, task, &job);
    if (job.shares > 1) plx_parallel_for(context, a->m, sum_task, &job);
    return PLX_OK;
}
