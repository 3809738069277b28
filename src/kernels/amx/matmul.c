/* matmul.c - C = beta C + op(A) op(B) + bias with operands rounded to bf16 and sums in f32, on tiles.
 *
 * op(B) is packed once by all threads: panels of 32 columns, each a stack of pairs of tiles along k. A task is some
 * rows of C: it packs its rows of op(A) for DEPTH of k, then goes through panels and blocks of 32 x 32, which are four
 * tiles of sums. What the loads of tiles from L1 and L2 allow is the limit, so a block uses every tile twice, and DEPTH
 * is such that a block's operands stay in L1 and L2. Where C is small and k long, as in the weight gradients of narrow
 * layers, tasks divide k: their parts of C are then summed in order. An element's sum is taken over the same stretches
 * of k in the same order whatever rows and columns are computed with it. */
#include "kernels/amx/square.h"
#include "kernels/cpu/product.h"

#define SIDE ((size_t)32)       /* of a block of C */
#define STEP ((size_t)32)       /* of k: a tile */
#define TILE ((size_t)512)      /* numbers of a tile */
#define DEPTH ((size_t)512)     /* of k that a task works on at a time */
#define ROWS_MOST ((size_t)256) /* of a task */
#define FEW_BLOCKS ((size_t)48) /* of C: k is divided */
#define SHARES ((size_t)8)      /* into so many */

typedef struct product {
    const plx_matmul_args *a;
    uint16_t *right;      /* [panels][steps][2][TILE] */
    uint16_t *left;       /* [threads][rows / SIDE][DEPTH / STEP][2][TILE] */
    size_t left_size;     /* of a thread */
    size_t steps, panels; /* of all k; of all columns */
    size_t rows, columns; /* of a task: rows, panels */
    size_t across, down;  /* tasks side by side, one below the other */
    size_t share;         /* steps of k a task */
    float *parts;         /* [shares][m][n]; NULL: into C */
} product;

/* Numbers k, k + 1, ... of an array of any type, 16 of them; 0 from `count` on. */
static inline vf load(const void *data, plx_type type, size_t index, size_t k, size_t count)
{
    return k < count ? product_load(data, type, index + k, count - k) : vf_set(0);
}

/* The tile of `side` (rows of op(A), columns of op(B)) first .. first + 15 and k .. k + 31. along: k runs along memory;
 * by_side: one row a number of the side, as left operands are, else one a pair of k. */
static inline void pack_tile(const void *data, plx_type type, size_t stride, bool along, bool by_side, size_t first,
                             size_t side, size_t k, size_t depth, uint16_t *to)
{
    vf row[16]; /* bits of bf16 pairs */
    if (along) {
        for (size_t i = 0; i < 16; i++) {
            row[i] = vf_set(0);
            if (first + i < side) {
                size_t at = (first + i) * stride;
                vf_store_bf16(&row[i], load(data, type, at, k, depth), load(data, type, at, k + 16, depth));
            }
        }
    } else {
        for (size_t i = 0; i < 16; i++) {
            size_t even = k + 2 * i, odd = even + 1;
            row[i] = (vf)vf_bf16_pairs(even < depth ? load(data, type, even * stride, first, side) : vf_set(0),
                                       odd < depth ? load(data, type, odd * stride, first, side) : vf_set(0));
        }
    }
    if (along != by_side) transpose(row);
    memcpy(to, row, sizeof row);
}

static void pack_panel(void *argument, size_t panel, int thread)
{
    (void)thread;
    const product *job = argument;
    const plx_matmul_args *a = job->a;
    uint16_t *to = job->right + panel * job->steps * 2 * TILE;
    for (size_t s = 0; s < job->steps; s++)
        for (size_t half = 0; half < 2; half++, to += TILE)
            pack_tile(a->b, a->b_type, a->ldb, a->transpose_b, false, panel * SIDE + 16 * half, a->n, s * STEP, a->k,
                      to);
}

/* Rows [row, row + count) of op(A), steps [from, to) of k. */
static void pack_rows(const product *job, size_t row, size_t count, size_t from, size_t to, uint16_t *left)
{
    const plx_matmul_args *a = job->a;
    for (size_t i = 0; i < count; i += SIDE)
        for (size_t s = from; s < to; s++)
            for (size_t half = 0; half < 2; half++, left += TILE)
                pack_tile(a->a, a->a_type, a->lda, !a->transpose_a, true, row + i + 16 * half, a->m, s * STEP, a->k,
                          left);
}

/* C's 32 x 32 numbers at c, their rows ldc apart, += the product of `steps` steps; read: else they begin at 0. */
static inline void block(plx_tiles *tiles, const uint16_t *left, const uint16_t *right, size_t steps, float *c,
                         size_t ldc, bool read)
{
    if (read)
        square_load(tiles, c, ldc);
    else
        square_zero(tiles);
    square_multiply(tiles, (square_operand){left, TILE, 2 * TILE}, (square_operand){right, TILE, 2 * TILE}, 0, steps);
    square_store(tiles, c, ldc);
}

/* The same where C ends inside the block. */
static void block_at_edge(plx_tiles *tiles, const uint16_t *left, const uint16_t *right, size_t steps, float *c,
                          size_t ldc, bool read, size_t rows, size_t columns)
{
    float whole[SIDE * SIDE] __attribute__((aligned(64)));
    memset(whole, 0, sizeof whole);
    for (size_t i = 0; i < rows && read; i++) memcpy(whole + i * SIDE, c + i * ldc, columns * sizeof *c);
    block(tiles, left, right, steps, whole, SIDE, read);
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, whole + i * SIDE, columns * sizeof *c);
}

/* c = beta c + bias, where the sums cannot simply begin with c or with 0; false: they can. */
static bool prepare(const plx_matmul_args *a, float *c, size_t rows, size_t column, size_t columns)
{
    if (a->bias == NULL && (a->beta == 0 || a->beta == 1) && a->k > 0) return false;
    vf scale = vf_set((float)a->beta);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 16) {
            size_t left = columns - j;
            vf x = a->bias != NULL ? product_load(a->bias, a->bias_type, column + j, left) : vf_set(0);
            if (a->beta != 0) x += scale * vf_next(c + i * a->ldc + j, left);
            vf_put(c + i * a->ldc + j, x, left);
        }
    return true;
}

static void task(void *argument, size_t index, int thread)
{
    const product *job = argument;
    const plx_matmul_args *a = job->a;
    size_t row = index / job->across % job->down * job->rows, first = index % job->across * job->columns;
    size_t rows = a->m - row < job->rows ? a->m - row : job->rows;
    size_t end = job->panels - first < job->columns ? job->panels : first + job->columns;
    size_t share = index / job->across / job->down, begin = share * job->share;
    size_t last = job->steps - begin < job->share ? job->steps : begin + job->share;
    uint16_t *left = job->left + (size_t)thread * job->left_size;
    size_t column = first * SIDE, columns = (end * SIDE < a->n ? end * SIDE : a->n) - column;
    float *c = job->parts == NULL ? (float *)a->c + row * a->ldc : job->parts + (share * a->m + row) * a->n;
    size_t ldc = job->parts == NULL ? a->ldc : a->n;
    bool prepared = job->parts == NULL && prepare(a, c + column, rows, column, columns);
    bool add = prepared || (job->parts == NULL && a->beta != 0);
    plx_tiles memory, *tiles = &memory;
    plx_tiles_begin(tiles);
    for (size_t from = begin; from < last; from += DEPTH / STEP) {
        size_t to = last - from < DEPTH / STEP ? last : from + DEPTH / STEP, steps = to - from;
        bool read = add || from > begin;
        pack_rows(job, row, rows, from, to, left);
        for (size_t panel = first; panel < end; panel++) {
            const uint16_t *right = job->right + (panel * job->steps + from) * 2 * TILE;
            size_t width = a->n - panel * SIDE < SIDE ? a->n - panel * SIDE : SIDE;
            for (size_t i = 0; i < rows; i += SIDE) {
                const uint16_t *top = left + i / SIDE * steps * 2 * TILE;
                float *corner = c + i * ldc + panel * SIDE;
                if (width == SIDE && rows - i >= SIDE)
                    block(tiles, top, right, steps, corner, ldc, read);
                else
                    block_at_edge(tiles, top, right, steps, corner, ldc, read, rows - i < SIDE ? rows - i : SIDE,
                                  width);
            }
        }
    }
    plx_tiles_end(tiles);
}

/* As many rows a task as give at least eight tasks, or else fewer panels, or shares of k. x W^T is never divided in k:
 * how would depend on the number of its rows. */
static void choose_tasks(product *job)
{
    const plx_matmul_args *a = job->a;
    job->rows = ROWS_MOST;
    job->columns = job->panels;
    job->share = job->steps;
    if ((a->transpose_a || !a->transpose_b) && a->bias == NULL && job->steps >= SHARES * DEPTH / STEP / 2 &&
        plx_parts(a->m, SIDE) * job->panels <= FEW_BLOCKS)
        job->share = plx_parts(job->steps, SHARES);
    else {
        while (job->rows > SIDE && plx_parts(a->m, job->rows) < 8) job->rows /= 2;
        size_t down = plx_parts(a->m, job->rows);
        if (down < 8) job->columns = plx_parts(job->panels, plx_parts(8, down));
    }
    job->down = plx_parts(a->m, job->rows);
    job->across = plx_parts(job->panels, job->columns);
}

plx_status PLX_CPU(plx_matmul)(plx_context *context, const void *arguments)
{
    const plx_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    product job = {.a = a, .steps = plx_parts(a->k, STEP), .panels = plx_parts(a->n, SIDE)};
    choose_tasks(&job);
    job.left_size = plx_parts(job.rows, SIDE) * (DEPTH / STEP) * 2 * TILE;
    size_t right = job.panels * job.steps * 2 * TILE, left = (size_t)context->options.threads * job.left_size;
    size_t shares = job.share < job.steps ? plx_parts(job.steps, job.share) : 1;
    size_t parts = shares > 1 ? shares * a->m * a->n : 0;
    job.right = plx_kernel_scratch(context, (right + left) * sizeof *job.right + parts * sizeof *job.parts);
    if (job.right == NULL) return PLX_ERROR_MEMORY;
    job.left = job.right + right;
    if (shares > 1) job.parts = (float *)(job.left + left);
    plx_parallel_for(context, job.panels, pack_panel, &job);
    plx_parallel_for(context, job.down * job.across * shares, task, &job);
    if (shares > 1) {
        product_parts sum = {a, job.parts, shares};
        plx_parallel_for(context, a->m, product_sum_parts, &sum);
    }
    return PLX_OK;
}
