/* matmul.c - C = beta C + A B^T + bias with rows that do not depend on each other (docs/decisions/
 * row-independent-products.md), for processors on which OpenBLAS does not promise that.
 *
 * Every element of C is one chain of multiply-adds over k, cut at fixed places, whichever rows and columns are computed
 * with it: full and partial tiles run the same inlined code. A task is one panel of 2 vectors of columns by a block of
 * rows; it packs its panel of B as [k][columns] and goes through the rows by tiles that stay in registers. */
#include "kernels/cpu/parts.h"
#include "kernels/half.h"

#define COLUMNS (2 * PLX_VW)         /* of a panel */
#define TILE (PLX_VW == 16 ? 12 : 6) /* rows of a tile: 2 accumulators each, with room for operands */
#define DEPTH ((size_t)256)          /* of one chain of multiply-adds */
#define ROWS ((size_t)192)           /* of a task */

typedef struct product {
    const plx_matmul_args *a;
    float *panels; /* [threads][k][COLUMNS] */
    size_t across; /* panels */
} product;

static float element(const plx_matmul_args *a, const void *data, size_t index)
{
    if (a->b_type == PLX_F32) return ((const float *)data)[index];
    uint16_t half = ((const uint16_t *)data)[index];
    return a->b_type == PLX_BF16 ? plx_float_of_bf16(half) : plx_float_of_f16(half);
}

/* Columns [column, column + width) of op(B), that is rows of B as stored; 0 beyond. */
static void pack(const plx_matmul_args *a, size_t column, size_t width, float *panel)
{
    for (size_t j = 0; j < COLUMNS; j++)
        for (size_t k = 0; k < a->k; k++)
            panel[k * COLUMNS + j] = j < width ? element(a, a->b, (column + j) * a->ldb + k) : 0;
}

/* `rows` (a constant once inlined) rows of one panel. */
static inline __attribute__((always_inline)) void tile(const plx_matmul_args *a, const float *left, const float *panel,
                                                       float *c, size_t width, const size_t rows)
{
    size_t from = 0;
    do { /* once also where k is 0 */
        size_t to = a->k - from < DEPTH ? a->k : from + DEPTH;
        vf sum[TILE][2];
        for (size_t i = 0; i < rows; i++) sum[i][0] = sum[i][1] = vf_set(0);
        for (size_t k = from; k < to; k++) {
            vf b0 = vf_load(panel + k * COLUMNS), b1 = vf_load(panel + k * COLUMNS + PLX_VW);
            for (size_t i = 0; i < rows; i++) {
                vf x = vf_set(left[i * a->lda + k]);
                sum[i][0] += x * b0;
                sum[i][1] += x * b1;
            }
        }
        for (size_t i = 0; i < rows; i++)
            for (size_t h = 0; h < 2; h++) {
                size_t first = h * PLX_VW;
                if (first >= width) continue;
                float *to_c = c + i * a->ldc + first;
                vf before = from > 0       ? vf_next(to_c, width - first)
                            : a->beta != 0 ? vf_set((float)a->beta) * vf_next(to_c, width - first)
                                           : vf_set(0);
                vf_put(to_c, before + sum[i][h], width - first);
            }
        from = to;
    } while (from < a->k);
}

static void tile_of(const plx_matmul_args *a, const float *left, const float *panel, float *c, size_t width,
                    size_t rows)
{
    switch (rows) {
    case 1: tile(a, left, panel, c, width, 1); break;
    case 2: tile(a, left, panel, c, width, 2); break;
    case 3: tile(a, left, panel, c, width, 3); break;
    case 4: tile(a, left, panel, c, width, 4); break;
    case 5: tile(a, left, panel, c, width, 5); break;
    default: tile(a, left, panel, c, width, 6); break;
    }
}

static void task(void *argument, size_t index, int thread)
{
    const product *job = argument;
    const plx_matmul_args *a = job->a;
    size_t column = index % job->across * COLUMNS, row = index / job->across * ROWS;
    size_t width = a->n - column < COLUMNS ? a->n - column : COLUMNS,
           end = plx_part_end(a->m, ROWS, index / job->across);
    float *panel = job->panels + (size_t)thread * a->k * COLUMNS;
    pack(a, column, width, panel);
    for (size_t i = row; i < end;) {
        const float *left = (const float *)a->a + i * a->lda;
        float *c = (float *)a->c + i * a->ldc + column;
        size_t rows = end - i >= TILE ? TILE : end - i >= 6 ? 6 : end - i;
        if (rows == TILE)
            tile(a, left, panel, c, width, TILE);
        else
            tile_of(a, left, panel, c, width, rows);
        for (size_t r = 0; a->bias != NULL && r < rows; r++)
            for (size_t j = 0; j < width; j++) c[r * a->ldc + j] += element(a, a->bias, column + j);
        i += rows;
    }
}

plx_status PLX_CPU(plx_matmul)(plx_context *context, const void *arguments)
{
    const plx_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    product job = {.a = a, .across = plx_parts(a->n, COLUMNS)};
    job.panels = plx_kernel_scratch(context, ((size_t)context->options.threads * a->k * COLUMNS + 16) * sizeof(float));
    if (job.panels == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, job.across * plx_parts(a->m, ROWS), task, &job);
    return PLX_OK;
}
