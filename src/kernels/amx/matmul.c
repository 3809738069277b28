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

#include <math.h>

#define SIDE ((size_t)32)       /* of a block of C */
#define STEP ((size_t)32)       /* of k: a tile */
#define TILE ((size_t)512)      /* numbers of a tile */
#define DEPTH ((size_t)512)     /* of k that a task works on at a time */
#define ROWS_MOST ((size_t)256) /* of a task */
#define FEW_BLOCKS ((size_t)48) /* of C: k is divided */
#define SHARES ((size_t)8)      /* into so many */
#define TASKS ((size_t)8)
#define SHARED_MOST ((size_t)1 << 20) /* numbers of an op(B) in three terms that tasks share: 2 MB */

typedef struct product {
    const plx_matmul_args *a;
    size_t terms;         /* of a number: 1, rounded to bf16; or TERMS */
    size_t depth;         /* steps of k that a task works on at a time */
    bool shared;          /* op(B) is packed once for all, else by each task */
    uint16_t *right;      /* [panels][steps][terms][2][TILE], or [threads][depth][terms][2][TILE] */
    uint16_t *left;       /* [threads][rows / SIDE][depth][terms][2][TILE] */
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

/* Row i of the tiles of both terms' pairs, those of each term 2 TILE behind the ones before. */
INLINE void store_terms(vf even, vf odd, uint16_t *to)
{
    vf a[TERMS], b[TERMS];
    vf_terms(even, a);
    vf_terms(odd, b);
    for (size_t t = 0; t < TERMS; t++) {
        vi pairs = vf_term_pairs(a[t], b[t]);
        memcpy(to + t * 2 * TILE, &pairs, sizeof pairs);
    }
}

/* The same in terms, the tile of each 2 TILE behind the one before. Slots 2i and 2i + 1 of a tile's k hold k + i and
 * k + 16 + i, on both sides: the terms of two vectors then lie in pairs without being turned. whole: nothing of the
 * tile lies beyond the operand. All but the data, places and counts are constants where this is inlined. */
INLINE void pack_terms_of(const void *data, const plx_type type, size_t stride, const bool along, const bool by_side,
                          const bool whole, size_t first, size_t side, size_t k, size_t depth, uint16_t *to)
{
    vf row[2][16];
    UNROLL for (size_t half = 0; half < 2; half++)
    {
        UNROLL for (size_t i = 0; i < 16; i++)
        {
            size_t at = along ? first + i : k + 16 * half + i, from = along ? k + 16 * half : first;
            if (whole) {
                row[half][i] = product_load(data, type, at * stride + from, 16);
                __builtin_prefetch((const float *)data + at * stride + from + (along ? SIDE * stride : SIDE), 0, 2);
            } else
                row[half][i] =
                    at < (along ? side : depth) ? load(data, type, at * stride, from, along ? depth : side) : vf_set(0);
        }
        if (along != by_side) transpose(row[half]);
    }
    UNROLL for (size_t i = 0; i < 16; i++) store_terms(row[0][i], row[1][i], to + 32 * i);
}
INLINE void pack_terms_as(const void *data, const plx_type type, size_t stride, bool along, const bool by_side,
                          const bool whole, size_t first, size_t side, size_t k, size_t depth, uint16_t *to)
{
    if (along)
        pack_terms_of(data, type, stride, true, by_side, whole, first, side, k, depth, to);
    else
        pack_terms_of(data, type, stride, false, by_side, whole, first, side, k, depth, to);
}
INLINE void pack_terms(const void *data, plx_type type, size_t stride, bool along, const bool by_side, size_t first,
                       size_t side, size_t k, size_t depth, uint16_t *to)
{
    if (type == PLX_F32 && first + 16 <= side && k + 32 <= depth)
        pack_terms_as(data, PLX_F32, stride, along, by_side, true, first, side, k, depth, to);
    else
        pack_terms_as(data, type, stride, along, by_side, false, first, side, k, depth, to);
}
static void pack_left(const void *data, plx_type type, size_t stride, bool along, size_t first, size_t side, size_t k,
                      size_t depth, uint16_t *to)
{
    pack_terms(data, type, stride, along, true, first, side, k, depth, to);
}
static void pack_right(const void *data, plx_type type, size_t stride, bool along, size_t first, size_t side, size_t k,
                       size_t depth, uint16_t *to)
{
    pack_terms(data, type, stride, along, false, first, side, k, depth, to);
}

/* The tiles of 32 of the side first .. and steps [from, to) of k; returns where the next ones go. */
static inline uint16_t *pack_side(const product *job, const void *data, plx_type type, size_t stride, bool along,
                                  bool by_side, size_t first, size_t side, size_t from, size_t end, uint16_t *to)
{
    for (size_t s = from; s < end; s++, to += job->terms * 2 * TILE)
        for (size_t half = 0; half < 2; half++)
            if (job->terms == 1)
                pack_tile(data, type, stride, along, by_side, first + 16 * half, side, s * STEP, job->a->k,
                          to + half * TILE);
            else
                (by_side ? pack_left : pack_right)(data, type, stride, along, first + 16 * half, side, s * STEP,
                                                   job->a->k, to + half * TILE);
    return to;
}

static void pack_panel(void *argument, size_t panel, int thread)
{
    (void)thread;
    const product *job = argument;
    const plx_matmul_args *a = job->a;
    pack_side(job, a->b, a->b_type, a->ldb, a->transpose_b, false, panel * SIDE, a->n, 0, job->steps,
              job->right + panel * job->steps * job->terms * 2 * TILE);
}

/* Rows [row, row + count) of op(A), steps [from, to) of k. */
static void pack_rows(const product *job, size_t row, size_t count, size_t from, size_t to, uint16_t *left)
{
    const plx_matmul_args *a = job->a;
    for (size_t i = 0; i < count; i += SIDE)
        left = pack_side(job, a->a, a->a_type, a->lda, !a->transpose_a, true, row + i, a->m, from, to, left);
}

/* C's 32 x 32 numbers at c, their rows ldc apart, += the product of `steps` steps; read: else they begin at 0. */
static inline void block(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                         float *c, size_t ldc, bool read)
{
    if (read)
        square_load(tiles, c, ldc);
    else
        square_zero(tiles);
    square_operand a = {left, TILE, terms * 2 * TILE}, b = {right, TILE, terms * 2 * TILE};
    if (terms == 1)
        square_multiply(tiles, a, b, 0, steps);
    else
        square_multiply_terms(tiles, a, 2 * TILE, b, 2 * TILE, 0, steps);
    square_store(tiles, c, ldc);
}

/* The same where C ends inside the block. */
static void block_at_edge(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                          float *c, size_t ldc, bool read, size_t rows, size_t columns)
{
    float whole[SIDE * SIDE] __attribute__((aligned(64)));
    memset(whole, 0, sizeof whole);
    for (size_t i = 0; i < rows && read; i++) memcpy(whole + i * SIDE, c + i * ldc, columns * sizeof *c);
    block(tiles, terms, left, right, steps, whole, SIDE, read);
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
    for (size_t from = begin; from < last; from += job->depth) {
        size_t to = last - from < job->depth ? last : from + job->depth, steps = to - from;
        bool read = add || from > begin;
        pack_rows(job, row, rows, from, to, left);
        for (size_t panel = first; panel < end; panel++) {
            uint16_t *right = job->right + (job->shared ? panel * job->steps + from : (size_t)thread * job->depth) *
                                               job->terms * 2 * TILE;
            if (!job->shared)
                pack_side(job, a->b, a->b_type, a->ldb, a->transpose_b, false, panel * SIDE, a->n, from, to, right);
            size_t width = a->n - panel * SIDE < SIDE ? a->n - panel * SIDE : SIDE;
            for (size_t i = 0; i < rows; i += SIDE) {
                const uint16_t *top = left + i / SIDE * steps * job->terms * 2 * TILE;
                float *corner = c + i * ldc + panel * SIDE;
                if (width == SIDE && rows - i >= SIDE)
                    block(tiles, job->terms, top, right, steps, corner, ldc, read);
                else
                    block_at_edge(tiles, job->terms, top, right, steps, corner, ldc, read,
                                  rows - i < SIDE ? rows - i : SIDE, width);
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
    job->shared = true;
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

/* Numbers are packed in three terms for `left` / columns + `right` / rows of a product's time: the division into at
 * least TASKS tasks for which that is least. */
static void divide(product *job)
{
    const plx_matmul_args *a = job->a;
    const bool divisible = (a->transpose_a || !a->transpose_b) && a->bias == NULL;
    const double left = a->transpose_a ? 2 : 1, right = a->transpose_b ? 2 : 1; /* turning takes as long as splitting */
    double least = HUGE_VAL;
    for (size_t down = 1; down <= a->m; down *= 2)
        for (size_t across = 1; across <= job->panels; across *= 2)
            for (size_t shares = 1; shares <= (divisible ? SHARES : 1); shares *= 2) {
                size_t rows = plx_parts(plx_parts(a->m, SIDE), down) * SIDE, columns = plx_parts(job->panels, across);
                size_t share = plx_parts(job->steps, shares), tasks = down * across * shares;
                double cost = left / (double)(columns * SIDE) + right / (double)rows;
                cost += (shares > 1 ? 16.0 : 0) / (double)(share * STEP) + (tasks < TASKS ? TASKS / (double)tasks : 0);
                if (rows > ROWS_MOST || cost >= least) continue;
                least = cost;
                job->rows = rows;
                job->columns = columns;
                job->share = share;
            }
    job->down = plx_parts(a->m, job->rows);
    job->across = plx_parts(job->panels, job->columns);
    job->shared = job->down > 1 && job->panels * job->steps * TERMS * 2 * TILE <= SHARED_MOST;
}

static plx_status multiply(plx_context *context, const plx_matmul_args *a, size_t terms)
{
    if (a->m == 0 || a->n == 0) return PLX_OK;
    product job = {
        .a = a, .terms = terms, .depth = DEPTH / STEP, .steps = plx_parts(a->k, STEP), .panels = plx_parts(a->n, SIDE)};
    if (terms == 1)
        choose_tasks(&job);
    else
        divide(&job);
    job.left_size = plx_parts(job.rows, SIDE) * job.depth * terms * 2 * TILE;
    size_t right =
               (job.shared ? job.panels * job.steps : (size_t)context->options.threads * job.depth) * terms * 2 * TILE,
           left = (size_t)context->options.threads * job.left_size;
    size_t shares = job.share < job.steps ? plx_parts(job.steps, job.share) : 1;
    size_t parts = shares > 1 ? shares * a->m * a->n : 0;
    job.right = plx_kernel_scratch(context, (right + left) * sizeof *job.right + parts * sizeof *job.parts);
    if (job.right == NULL) return PLX_ERROR_MEMORY;
    job.left = job.right + right;
    if (shares > 1) job.parts = (float *)(job.left + left);
    if (job.shared) plx_parallel_for(context, job.panels, pack_panel, &job);
    plx_parallel_for(context, job.down * job.across * shares, task, &job);
    if (shares > 1) {
        product_parts sum = {a, job.parts, shares};
        plx_parallel_for(context, a->m, product_sum_parts, &sum);
    }
    return PLX_OK;
}

/* Operands rounded to bf16. */
plx_status PLX_CPU(plx_matmul)(plx_context *context, const void *arguments) { return multiply(context, arguments, 1); }

/* Operands as sums of three bf16 numbers, which give f32's precision (terms.h). */
plx_status PLX_CPU(plx_matmul_terms)(plx_context *context, const void *arguments)
{
    return multiply(context, arguments, TERMS);
}
