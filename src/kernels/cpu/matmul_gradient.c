/* matmul_gradient.c - C = beta C + op(A) op(B) + bias in f32 where k is long beside C: the weight gradient of a linear
 * layer, whose k are the tokens, and the input gradient of a projection to many outputs.
 *
 * C is cut into blocks that stay in the second-level cache; a task goes through its share of k in steps of
 * PRODUCT_DEPTH, packs that step's part of both operands - a transposed A is read row by row, as it lies in memory -
 * and adds their product to the block. Where C has fewer blocks than TASKS, k is divided too: the parts are then summed
 * in order. */
#include "kernels/cpu/product.h"

#define BLOCK_ROWS ((size_t)280)
#define BLOCK_COLUMNS ((size_t)256)
/* Of a transposed A, packed; not a multiple of the cache's sets, on which one k of all tiles would fall. */
#define LEFT_TILE (PRODUCT_DEPTH * PRODUCT_LANES + 16)
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
INLINE void pack_left_of(const plx_matmul_args *a, size_t row, size_t rows, size_t from, size_t to, float *left,
                         plx_type type)
{
    for (size_t k = from; k < to; k++, left += PRODUCT_LANES) {
        float *tile = left;
        for (size_t i = 0; i < rows; i += PRODUCT_ROWS, tile += LEFT_TILE)
            for (size_t j = 0; j < PRODUCT_LANES && i + j < rows; j += PLX_VW)
                vf_store(tile + j, product_load(a->a, type, k * a->lda + row + i + j, a->m - row - i - j));
    }
}
static void pack_left(const plx_matmul_args *a, size_t row, size_t rows, size_t from, size_t to, float *left)
{
    if (a->a_type == PLX_F32)
        pack_left_of(a, row, rows, from, to, left, PLX_F32);
    else
        pack_left_of(a, row, rows, from, to, left, a->a_type);
}

/* The rows from k = from on that a block needs of both operands, as strips of a line's width: number `strip`. */
static product_ahead strip_of(const plx_matmul_args *a, size_t row, size_t rows, size_t column, size_t columns,
                              size_t from, size_t strip)
{
    size_t size_a = plx_type_size(a->a_type), size_b = plx_type_size(a->b_type);
    size_t of_a = a->transpose_a ? plx_parts(rows * size_a, 64) : 0;
    size_t of_b = a->transpose_b ? 0 : plx_parts(columns * size_b, 64);
    if (strip < of_a)
        return (product_ahead){(uintptr_t)a->a + (from * a->lda + row) * size_a + strip * 64, a->lda * size_a};
    strip -= of_a;
    if (strip < of_b)
        return (product_ahead){(uintptr_t)a->b + (from * a->ldb + column) * size_b + strip * 64, a->ldb * size_b};
    return (product_ahead){0, 0};
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
        if (a->transpose_a) pack_left(a, row, rows, from, to, left);
        size_t strip = to < end ? 0 : SIZE_MAX / 2; /* of the next step's operands, which come meanwhile */
        for (size_t i = 0; i < rows; i += PRODUCT_ROWS) {
            size_t count = product_least(rows - i, PRODUCT_ROWS);
            const float *tile = left;
            if (a->transpose_a)
                tile += i / PRODUCT_ROWS * LEFT_TILE;
            else
                product_copy_rows(a, row + i, count, from, to, left);
            for (size_t j = 0; j < columns; j += PRODUCT_COLUMNS) {
                product_store store = {.c = c + (row + i) * ldc + column + j,
                                       .ldc = ldc,
                                       .width = product_least(columns - j, PRODUCT_COLUMNS),
                                       .read = from > begin || beta != 0,
                                       .scale = from > begin ? 1 : beta,
                                       .bias = from > begin || job->bias == NULL ? NULL : job->bias + column + j};
                const float *panel = right + j * PRODUCT_DEPTH;
                product_ahead ahead = strip_of(a, row, rows, column, columns, to, strip++);
                if (a->transpose_a)
                    product_rows(tile, true, panel, to - from, &store, count, &ahead);
                else
                    product_rows(tile, false, panel, to - from, &store, count, &ahead);
            }
        }
        from = to;
    } while (from < end);
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
    job.left_size = plx_parts(job.block_rows, PRODUCT_ROWS) * LEFT_TILE;
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
    if (job.shares > 1) {
        product_parts sum = {a, job.parts, job.shares};
        plx_parallel_for(context, a->m, product_sum_parts, &sum);
    }
    return PLX_OK;
}
