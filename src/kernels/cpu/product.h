/* product.h - what the matrix products of a level share: the tile of C that stays in registers, and the layouts that
 * its operands are packed into.
 *
 * A tile is PRODUCT_ROWS rows by two vectors of columns; a panel is op(B)'s columns of one tile as
 * [k][PRODUCT_COLUMNS], zeros where the matrix ends. Every element of C is one chain of multiply-adds over at most
 * PRODUCT_DEPTH of k, and the chains are added to C in the order of k: the same operations whichever rows and columns
 * are computed with it, so that a row does not depend on the others (docs/decisions/row-independent-products.md). */
#ifndef PLX_KERNELS_CPU_PRODUCT_H
#define PLX_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/registers.h"
#include "kernels/half.h"

#define PRODUCT_COLUMNS ((size_t)(2 * PLX_VW))
#define PRODUCT_ROWS ((size_t)(PLX_VW == 16 ? 14 : 6)) /* 2 accumulators each, and room for three operands */
#define PRODUCT_DEPTH ((size_t)256)
/* Rows of A lie this far apart in a tile's copy: not a power of two, or they would fall on the same sets of the cache.
 */
#define PRODUCT_STRIDE (PRODUCT_DEPTH + 16)
/* A tile of a transposed A is [k][PRODUCT_LANES]. */
#define PRODUCT_LANES ((PRODUCT_ROWS + PLX_VW - 1) / PLX_VW * PLX_VW)

/* ---- packing ---- */

/* The next numbers of an array of any type but f64, of which `left` remain; 0 beyond. */
static inline vf product_load(const void *data, plx_type type, size_t index, size_t left)
{
    if (type == PLX_F32) return vf_next((const float *)data + index, left);
    const uint16_t *half = (const uint16_t *)data + index;
    float lanes[PLX_VW];
    for (size_t i = 0; i < PLX_VW; i++)
        lanes[i] = i >= left ? 0 : type == PLX_BF16 ? plx_float_of_bf16(half[i]) : plx_float_of_f16(half[i]);
    return vf_load(lanes);
}

/* op(B)'s columns [column, column + PRODUCT_COLUMNS) of k in [from, to), as a panel that begins at `from`. */
INLINE void product_pack_right_of(const plx_matmul_args *a, size_t column, size_t from, size_t to, float *panel,
                                  plx_type type)
{
    if (!a->transpose_b) {
        for (size_t k = from; k < to; k++)
            for (size_t j = 0; j < PRODUCT_COLUMNS; j += PLX_VW)
                vf_store(panel + (k - from) * PRODUCT_COLUMNS + j,
                         column + j < a->n ? product_load(a->b, type, k * a->ldb + column + j, a->n - column - j)
                                           : vf_set(0));
        return;
    }
    for (size_t j = 0; j < PRODUCT_COLUMNS; j += PLX_VW)
        for (size_t k = from; k < to; k += PLX_VW) {
            vf rows[PLX_VW];
            for (size_t i = 0; i < PLX_VW; i++)
                rows[i] =
                    column + j + i < a->n ? product_load(a->b, type, (column + j + i) * a->ldb + k, to - k) : vf_set(0);
            transpose(rows);
            size_t left = to - k < PLX_VW ? to - k : PLX_VW;
            for (size_t i = 0; i < left; i++) vf_store(panel + (k - from + i) * PRODUCT_COLUMNS + j, rows[i]);
        }
}
static inline void product_pack_right(const plx_matmul_args *a, size_t column, size_t from, size_t to, float *panel)
{
    if (a->b_type == PLX_F32)
        product_pack_right_of(a, column, from, to, panel, PLX_F32);
    else
        product_pack_right_of(a, column, from, to, panel, a->b_type);
}

/* `count` rows of A from `row` on, k in [from, to), PRODUCT_STRIDE apart. */
static inline void product_copy_rows(const plx_matmul_args *a, size_t row, size_t count, size_t from, size_t to,
                                     float *left)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = from; k < to; k += PLX_VW)
            vf_store(left + i * PRODUCT_STRIDE + (k - from),
                     product_load(a->a, a->a_type, (row + i) * a->lda + k, to - k));
}

/* ---- the tile ---- */

/* Where a tile's sums go: c = scale * c + bias + sum, or bias + sum where c is not to be read. */
typedef struct product_store {
    float *c;
    size_t ldc, width; /* columns that exist: at most PRODUCT_COLUMNS */
    bool read;
    float scale;
    const float *bias; /* PRODUCT_COLUMNS numbers, or NULL */
} product_store;

/* What will be wanted soon: a line of memory for each step of k, `stride` bytes apart; line 0: nothing. All of a step's
 * operands at once would hold up the tile's own. An address only: it may lie beyond the array. */
typedef struct product_ahead {
    uintptr_t line;
    size_t stride;
} product_ahead;

/* rows, row_step and k_step are constants once inlined: a[i][k] is at left[i * row_step + k * k_step]. ahead may be
 * NULL. */
INLINE void product_tile(const float *left, const size_t row_step, const size_t k_step, const float *panel,
                         size_t depth, const product_store *to, size_t row, const size_t rows,
                         const product_ahead *ahead)
{
    uintptr_t line = ahead != NULL ? ahead->line : 0;
    size_t stride = ahead != NULL ? ahead->stride : 0;
    vf sum[PRODUCT_ROWS][2];
    for (size_t i = 0; i < rows; i++) sum[i][0] = sum[i][1] = vf_set(0);
    /* C's lines come while the sums are made: a store to a line elsewhere waits for it */
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < to->width; j += 16) __builtin_prefetch(to->c + (row + i) * to->ldc + j, 1);
    for (size_t k = 0; k < depth; k++) {
        vf b0 = vf_load(panel), b1 = vf_load(panel + PLX_VW);
        if (ahead != NULL) {
            __builtin_prefetch((const void *)line, 0, 2);
            line += stride;
        }
        for (size_t i = 0; i < rows; i++) {
            vf x = vf_set(left[i * row_step]);
            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
        left += k_step;
        panel += PRODUCT_COLUMNS;
    }
    vf bias0 = vf_set(0), bias1 = vf_set(0);
    if (to->bias != NULL) {
        bias0 = vf_load(to->bias);
        bias1 = vf_load(to->bias + PLX_VW);
    }
    float *c = to->c + row * to->ldc;
    vf scale = vf_set(to->scale);
    if (to->width == PRODUCT_COLUMNS) {
        for (size_t i = 0; i < rows; i++, c += to->ldc) {
            vf v0 = bias0, v1 = bias1;
            if (to->read) {
                v0 += scale * vf_load(c);
                v1 += scale * vf_load(c + PLX_VW);
            }
            vf_store(c, v0 + sum[i][0]);
            vf_store(c + PLX_VW, v1 + sum[i][1]);
        }
        return;
    }
    size_t first = to->width < PLX_VW ? to->width : PLX_VW;
    for (size_t i = 0; i < rows; i++, c += to->ldc) {
        vf_put(c, (to->read ? bias0 + scale * vf_next(c, first) : bias0) + sum[i][0], first);
        if (to->width > PLX_VW) {
            size_t rest = to->width - PLX_VW;
            vf_put(c + PLX_VW, (to->read ? bias1 + scale * vf_next(c + PLX_VW, rest) : bias1) + sum[i][1], rest);
        }
    }
}

/* Whole tiles are functions of their own: a register that lives on around their loop spills a sum in it. */
#define PRODUCT_WHOLE(name, row_step, k_step, next)                                                                    \
    static __attribute__((noinline, unused)) void name(const float *left, const float *panel, size_t depth,            \
                                                       const product_store *to, const product_ahead *ahead)            \
    {                                                                                                                  \
        (void)ahead;                                                                                                   \
        product_tile(left, row_step, k_step, panel, depth, to, 0, PRODUCT_ROWS, next);                                 \
    }
PRODUCT_WHOLE(product_whole, PRODUCT_STRIDE, 1, NULL)
PRODUCT_WHOLE(product_whole_ahead, PRODUCT_STRIDE, 1, ahead)
PRODUCT_WHOLE(product_turned, 1, PRODUCT_LANES, NULL)
PRODUCT_WHOLE(product_turned_ahead, 1, PRODUCT_LANES, ahead)

/* At most PRODUCT_ROWS rows by one panel; fewer are put together from tiles of powers of two. turned: A's tile is
 * [k][PRODUCT_LANES], else its rows lie PRODUCT_STRIDE apart. */
INLINE void product_rows(const float *left, const bool turned, const float *panel, size_t depth,
                         const product_store *to, size_t rows, const product_ahead *ahead)
{
    const size_t row_step = turned ? 1 : PRODUCT_STRIDE, k_step = turned ? PRODUCT_LANES : 1;
    if (rows == PRODUCT_ROWS) {
        if (ahead != NULL && ahead->line != 0)
            (turned ? product_turned_ahead : product_whole_ahead)(left, panel, depth, to, ahead);
        else
            (turned ? product_turned : product_whole)(left, panel, depth, to, NULL);
        return;
    }
    size_t row = 0;
    if (PRODUCT_ROWS > 8 && rows & 8) {
        product_tile(left, row_step, k_step, panel, depth, to, row, PRODUCT_ROWS > 8 ? 8 : 1, NULL);
        row += 8;
    }
    if (rows & 4) {
        product_tile(left + row * row_step, row_step, k_step, panel, depth, to, row, 4, NULL);
        row += 4;
    }
    if (rows & 2) {
        product_tile(left + row * row_step, row_step, k_step, panel, depth, to, row, 2, NULL);
        row += 2;
    }
    if (rows & 1) product_tile(left + row * row_step, row_step, k_step, panel, depth, to, row, 1, NULL);
}

/* ---- dividing the work ---- */

static inline size_t product_least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t product_most(size_t a, size_t b) { return a > b ? a : b; }

/* C = beta C + parts that shares of k gave, in order; index: a row. */
typedef struct product_parts {
    const plx_matmul_args *a;
    const float *parts; /* [shares][m][n] */
    size_t shares;
} product_parts;
static inline void product_sum_parts(void *argument, size_t row, int thread)
{
    (void)thread;
    const product_parts *job = argument;
    const plx_matmul_args *a = job->a;
    float *c = (float *)a->c + row * a->ldc;
    for (size_t j = 0; j < a->n; j += PLX_VW) {
        vf sum = a->beta == 0 ? vf_set(0) : vf_set((float)a->beta) * vf_next(c + j, a->n - j);
        for (size_t s = 0; s < job->shares; s++) sum += vf_next(job->parts + (s * a->m + row) * a->n + j, a->n - j);
        vf_put(c + j, sum, a->n - j);
    }
}

/* The products with a transposed A or a long k, matmul_gradient.c. */
plx_status PLX_CPU(plx_matmul_gradient)(plx_context *context, const plx_matmul_args *a);

#endif
