/* packed_product.h - y = beta y + x W^T + bias with packed W (kernels/packed.h), for the levels of cpu/ and for vnni/.
 *
 * Up to four rows of x, as when text is written token by token, go straight through the packed panels: memory's speed
 * is the limit, so the panels are read in one line, each thread its own part of them, asked for in advance. More rows
 * take two panels at a time, which are first spread into bytes and f32 scales in the cache, and as many rows as have
 * their sums in registers.
 *
 * Either way an element of y is the same operations: per block a whole number that is exact whatever its order, times
 * x's scale, times the weights' scale, added to the sum of the blocks before. So rows do not depend on each other
 * (docs/decisions/row-independent-products.md), and tile.h's products may take part. */
#ifndef PLX_KERNELS_CPU_PACKED_PRODUCT_H
#define PLX_KERNELS_CPU_PACKED_PRODUCT_H

#include "kernels/cpu/packed_parts.h"

#define FEW ((size_t)4) /* rows of x that go through the packed panels themselves */
#define AHEAD 5120      /* bytes that are asked for in advance */
#if defined(__AVX512F__)
#define TILE_ROWS ((size_t)6) /* of x, by two panels: 12 whole sums, 12 sums, and room for operands */
#define TILE_PANELS ((size_t)2)
#elif defined(__AVX2__)
#define TILE_ROWS ((size_t)2)
#define TILE_PANELS ((size_t)1)
#else
#define TILE_ROWS ((size_t)1)
#define TILE_PANELS ((size_t)1)
#endif
#define TASK_ROWS ((size_t)192)    /* of x, for one spreading */
#define PART_BYTES ((size_t)16384) /* few rows: of weights, a task */

/* ---- whole numbers ---- */

typedef int32_t word __attribute__((aligned(4), may_alias));

/* The sum of a group: sum[row] += four numbers of each row times the four bytes of x. With VNNI the numbers still have
 * the centre added, and sums begin with plx_quantised.offset; else it is subtracted here and they begin with 0. */
#if defined(__AVX512VNNI__)
typedef vi operand;
INLINE operand operand_of(vi bytes, int centre)
{
    (void)centre;
    return bytes;
}
INLINE vi sum_begin(const plx_quantised *x) { return (vi){0} + x->offset; }
INLINE vi sum_group(vi sum, operand w, int32_t x)
{
    vi all = (vi){0} + x;
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(all)); /* gcc 12 spills sums around the intrinsic */
    return sum;
}
#elif defined(__AVX2__) /* bytes without sign times bytes with one, pairs of which are added in 16 bits: no overflow   \
                         */
typedef struct operand {
    vi magnitude, sign;
} operand;
INLINE vi sum_begin(const plx_quantised *x)
{
    (void)x;
    return (vi){0};
}
#if PLX_VW == 16
INLINE operand operand_of(vi bytes, int centre)
{
    __m512i w = _mm512_sub_epi8((__m512i)bytes, _mm512_set1_epi8((char)centre));
    return (operand){(vi)_mm512_abs_epi8(w), (vi)w};
}
INLINE vi sum_group(vi sum, operand w, int32_t x)
{
    __m512i all = _mm512_set1_epi32(x);
    all = _mm512_mask_sub_epi8(all, _mm512_movepi8_mask((__m512i)w.sign), _mm512_setzero_si512(), all);
    __m512i pairs = _mm512_maddubs_epi16((__m512i)w.magnitude, all);
    return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#else
INLINE operand operand_of(vi bytes, int centre)
{
    __m256i w = _mm256_sub_epi8((__m256i)bytes, _mm256_set1_epi8((char)centre));
    return (operand){(vi)_mm256_abs_epi8(w), (vi)w};
}
INLINE vi sum_group(vi sum, operand w, int32_t x)
{
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w.magnitude, _mm256_sign_epi8(_mm256_set1_epi32(x), (__m256i)w.sign));
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#endif
#else
typedef struct operand {
    vi number[4];
} operand;
INLINE operand operand_of(vi bytes, int centre)
{
    operand w;
    for (int j = 0; j < 4; j++) w.number[j] = (bytes >> 8 * j & 255) - centre;
    return w;
}
INLINE vi sum_begin(const plx_quantised *x)
{
    (void)x;
    return (vi){0};
}
INLINE vi sum_group(vi sum, operand w, int32_t x)
{
    for (int j = 0; j < 4; j++) sum += w.number[j] * (int32_t)(int8_t)((uint32_t)x >> 8 * j);
    return sum;
}
#endif

/* ---- the tile ---- */

/* sums[row][panel][v]: `rows` rows of x, x_step apart, by `panels` panels, panel_step bytes apart. */
INLINE void tile(const uint8_t *weights, size_t panel_step, size_t blocks, form_shape form, int centre,
                 const plx_quantised *x, size_t x_step, const size_t rows, const size_t panels, bool ahead,
                 vf sums[][TILE_PANELS][VECTORS])
{
    for (size_t i = 0; i < rows; i++)
        for (size_t p = 0; p < panels; p++)
            for (size_t v = 0; v < VECTORS; v++) sums[i][p][v] = vf_set(0);
    for (size_t b = 0; b < blocks; b++, weights += block_of(form), x++) {
        vi whole[TILE_ROWS > FEW ? TILE_ROWS : FEW][TILE_PANELS][VECTORS];
        if (ahead)
            for (size_t line = 0; line < block_of(form); line += 64) __builtin_prefetch(weights + AHEAD + line);
        for (size_t i = 0; i < rows; i++)
            for (size_t p = 0; p < panels; p++)
                for (size_t v = 0; v < VECTORS; v++) whole[i][p][v] = sum_begin(x + i * x_step);
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; g++) {
            operand w[TILE_PANELS][VECTORS];
            for (size_t p = 0; p < panels; p++)
                for (size_t v = 0; v < VECTORS; v++)
                    w[p][v] = operand_of(bytes_of(weights + p * panel_step, form, g, v), centre);
            for (size_t i = 0; i < rows; i++) {
                const int32_t four = ((const word *)(const void *)x[i * x_step].q)[g];
                for (size_t p = 0; p < panels; p++)
                    for (size_t v = 0; v < VECTORS; v++) whole[i][p][v] = sum_group(whole[i][p][v], w[p][v], four);
            }
        }
        for (size_t p = 0; p < panels; p++)
            for (size_t v = 0; v < VECTORS; v++) {
                vf d = scales_of(weights + p * panel_step, form, 0, v);
                for (size_t i = 0; i < rows; i++)
                    sums[i][p][v] =
                        multiply_add(whole_to_float(whole[i][p][v]) * vf_set(x[i * x_step].scale), d, sums[i][p][v]);
                if (!form.minimum) continue;
                vf m = scales_of(weights + p * panel_step, form, 1, v);
                for (size_t i = 0; i < rows; i++)
                    sums[i][p][v] = multiply_add(m, vf_set(x[i * x_step].shift), sums[i][p][v]);
            }
    }
}

/* ---- x in whole numbers ---- */

static void quantise_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const product *job = argument;
    const float *x = (const float *)job->a->x + row * job->a->k;
    for (size_t b = 0; b < job->blocks; b++) quantise(x + b * PLX_BLOCK, job->centre, job->x + row * job->blocks + b);
}

/* ---- few rows ---- */

INLINE void few_panels(const product *job, size_t first, size_t end, form_shape form, const size_t rows)
{
    vf sums[FEW][TILE_PANELS][VECTORS];
    for (size_t panel = first; panel < end; panel++) {
        tile((const uint8_t *)job->a->weights + panel * job->panel_bytes, 0, job->blocks, form, job->centre, job->x,
             job->blocks, rows, 1, true, sums);
        for (size_t i = 0; i < rows; i++) store(job, i, panel, sums[i][0]);
    }
}
/* Numbers of rows as constants, too. */
INLINE void few_rows(const product *job, size_t first, size_t end, form_shape form)
{
    switch (job->a->m) {
    case 1: few_panels(job, first, end, form, 1); break;
    case 2: few_panels(job, first, end, form, 2); break;
    case 3: few_panels(job, first, end, form, 3); break;
    default: few_panels(job, first, end, form, 4); break;
    }
}
static void few_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const product *job = argument;
    size_t first = index * job->part, end = plx_part_end(job->panels, job->part, index);
    switch (job->a->form) {
#define FEW_CASE(name, bits, wide, minimum, centre)                                                                    \
    case PLX_FORM_##name: few_rows(job, first, end, (form_shape){bits, wide, minimum}); break;
        PLX_FORM_LIST(FEW_CASE)
#undef FEW_CASE
    default: break;
    }
}

/* ---- many rows ---- */

INLINE void spread_tile(const product *job, const uint8_t *weights, size_t row, size_t panel, form_shape form,
                        const size_t rows)
{
    vf sums[TILE_ROWS > FEW ? TILE_ROWS : FEW][TILE_PANELS][VECTORS];
    tile(weights, job->blocks * block_of(form), job->blocks, form, job->centre, job->x + row * job->blocks, job->blocks,
         rows, TILE_PANELS, false, sums);
    for (size_t i = 0; i < rows; i++)
        for (size_t p = 0; p < TILE_PANELS; p++) store(job, row + i, panel + p, sums[i][p]);
}

INLINE void many_form(const product *job, size_t index, uint8_t *weights, form_shape packed)
{
    const form_shape form = {8, true, packed.minimum};
    const size_t panel = index % job->across * TILE_PANELS;
    size_t row = index / job->across * TASK_ROWS, end = plx_part_end(job->a->m, TASK_ROWS, index / job->across);
    for (size_t p = 0; p < TILE_PANELS; p++) /* of an odd number of panels, the last stands in for the one missing */
        spread_form(job, panel + p < job->panels ? panel + p : panel, packed, 0,
                    weights + p * job->blocks * block_of(form));
    for (; row + TILE_ROWS <= end; row += TILE_ROWS) spread_tile(job, weights, row, panel, form, TILE_ROWS);
    for (; TILE_ROWS > 2 && row + 2 <= end; row += 2) spread_tile(job, weights, row, panel, form, 2);
    for (; row < end; row++) spread_tile(job, weights, row, panel, form, 1);
}
static void many_task(void *argument, size_t index, int thread)
{
    const product *job = argument;
    uint8_t *weights = job->spread + (size_t)thread * TILE_PANELS * job->blocks * SPREAD_BLOCK;
    switch (job->a->form) {
#define MANY_CASE(name, bits, wide, minimum, centre)                                                                   \
    case PLX_FORM_##name: many_form(job, index, weights, (form_shape){bits, wide, minimum}); break;
        PLX_FORM_LIST(MANY_CASE)
#undef MANY_CASE
    default: break;
    }
}

plx_status PLX_CPU(plx_packed_matmul)(plx_context *context, const void *arguments)
{
    const plx_packed_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    const bool few = a->m <= FEW;
    product job = {.a = a,
                   .blocks = a->k / PLX_BLOCK,
                   .panels = plx_parts(a->n, PLX_PANEL_ROWS),
                   .centre = plx_form_centre(a->form)};
    job.panel_bytes = job.blocks * plx_form_block_bytes(a->form);
    job.across = plx_parts(job.panels, TILE_PANELS);
    job.part = PART_BYTES / (job.panel_bytes + 1) + 1;
    const size_t x = a->m * job.blocks * sizeof *job.x, x_bytes = (x + 63) / 64 * 64;
    const size_t spread = few ? 0 : (size_t)context->options.threads * TILE_PANELS * job.blocks * SPREAD_BLOCK;
    job.x = plx_kernel_scratch(context, x_bytes + spread);
    if (job.x == NULL) return PLX_ERROR_MEMORY;
    job.spread = (uint8_t *)job.x + x_bytes;
    if (few)
        for (size_t row = 0; row < a->m; row++) quantise_row(&job, row, 0);
    else
        plx_parallel_for(context, a->m, quantise_row, &job);
    if (few)
        plx_parallel_for(context, plx_parts(job.panels, job.part), few_task, &job);
    else
        plx_parallel_for(context, job.across * plx_parts(a->m, TASK_ROWS), many_task, &job);
    return PLX_OK;
}

#endif
