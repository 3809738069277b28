/* packed.c - products with packed weights by int8 tiles: 16 rows of x by a panel of 16 rows of W, block by block.
 *
 * A block's whole numbers come from one product of half-filled tiles (depth 32), go through memory, and are scaled and
 * added as the loops of cpu/packed_product.h do it, bit for bit: so decoding, which those do, equals reading. What that
 * takes is in docs/results/models.md: the vectors' work is more than the tiles', and the two hardly overlap. */
#include "kernels/amx/tile.h"
#include "kernels/cpu/packed_parts.h"

#if defined(PLX_TILES_EMULATED_HERE)
#define ROWS /* sixteen lanes in four registers each: unrolled, that is long to compile and no faster */
#else
#define ROWS _Pragma("GCC unroll 16")
#endif
#define SIDE ((size_t)16)
#define TASK_ROWS ((size_t)192) /* of x, for one spreading */
#define TASK_PANELS ((size_t)2)
#define SUMS (SIDE * SIDE)

/* A block of 16 rows of x, as plx_quantised has it. */
typedef struct left_block {
    int8_t q[SIDE][PLX_BLOCK];
    float scale[SIDE], shift[SIDE];
} left_block;

typedef struct tiled_product {
    product all;
    left_block *left; /* [rows / SIDE][blocks], from a whole line of the cache on; rows beyond the last are 0 */
} tiled_product;

static void quantise_rows(void *argument, size_t index, int thread)
{
    (void)thread;
    const tiled_product *job = argument;
    const plx_packed_matmul_args *a = job->all.a;
    for (size_t i = 0; i < SIDE; i++) {
        left_block *to = job->left + index * job->all.blocks;
        const float *x = (const float *)a->x + (index * SIDE + i) * a->k;
        for (size_t b = 0; b < job->all.blocks; b++) {
            plx_quantised block = {0};
            if (index * SIDE + i < a->m) quantise(x + b * PLX_BLOCK, 0, &block);
            memcpy(to[b].q[i], block.q, sizeof block.q);
            to[b].scale[i] = block.scale;
            to[b].shift[i] = block.shift;
        }
    }
}

/* Tiles answer late: the product of block b + 3 is asked for, and that of block b + 2 fetched, after block b is added.
 * `block` of tile `sums` lies in the place of its parity until then. */
#define MULTIPLY(block, sums, one, other)                                                                              \
    if ((block) < blocks) {                                                                                            \
        plx_tile_zero(tiles, sums);                                                                                    \
        plx_tile_load(tiles, one, left[block].q, PLX_BLOCK);                                                           \
        plx_tile_load(tiles, other, weights + (block)*step + head_of(form), 64);                                       \
        plx_tile_dot_whole(tiles, sums, one, other);                                                                   \
    }
#define FETCH(block, sums)                                                                                             \
    if ((block) < blocks) plx_tile_store(tiles, sums, whole[(sums)&1], 64);
#define ADD(block, sums, one, other, last)                                                                             \
    if ((block) < blocks) {                                                                                            \
        add_block(whole[(last)&1], weights + (block)*step, form, left + (block), y);                                   \
        FETCH((block) + 2, last)                                                                                       \
        MULTIPLY((block) + 3, sums, one, other)                                                                        \
    }

INLINE void add_block(const int32_t *whole, const uint8_t *block, form_shape form, const left_block *left, vf y[SIDE])
{
    const vf d = scales_of(block, form, 0, 0), m = form.minimum ? scales_of(block, form, 1, 0) : vf_set(0);
    ROWS for (size_t i = 0; i < SIDE; i++)
    {
        vi row = *(const vi_unaligned *)(const void *)(whole + i * SIDE);
        y[i] = multiply_add(whole_to_float(row) * vf_set(left->scale[i]), d, y[i]);
        if (form.minimum) y[i] = multiply_add(m, vf_set(left->shift[i]), y[i]);
    }
}

INLINE void square(plx_tiles *tiles, const tiled_product *job, const uint8_t *weights, size_t row, size_t panel,
                   const bool minimum)
{
    const form_shape form = {8, true, minimum};
    const size_t blocks = job->all.blocks, step = block_of(form), rows = job->all.a->m - row;
    const left_block *left = job->left + row / SIDE * blocks;
    int32_t whole[2][SUMS] __attribute__((aligned(64)));
    vf y[SIDE];
    (void)tiles;
    ROWS for (size_t i = 0; i < SIDE; i++) y[i] = vf_set(0);
    MULTIPLY((size_t)0, 0, 4, 6)
    MULTIPLY((size_t)1, 1, 5, 7)
    FETCH((size_t)0, 0)
    MULTIPLY((size_t)2, 2, 4, 6)
    FETCH((size_t)1, 1)
    for (size_t b = 0; b < blocks; b += 4) {
        ADD(b, 3, 5, 7, 2)
        ADD(b + 1, 0, 4, 6, 3)
        ADD(b + 2, 1, 5, 7, 0)
        ADD(b + 3, 2, 4, 6, 1)
    }
    ROWS for (size_t i = 0; i < SIDE; i++)
    {
        if (i < rows) store(&job->all, row + i, panel, y + i);
    }
}
static void square_plain(plx_tiles *tiles, const tiled_product *job, const uint8_t *weights, size_t row, size_t panel)
{
    square(tiles, job, weights, row, panel, false);
}
static void square_minimum(plx_tiles *tiles, const tiled_product *job, const uint8_t *weights, size_t row, size_t panel)
{
    square(tiles, job, weights, row, panel, true);
}

static void spread_panel(const product *job, size_t panel, uint8_t *weights)
{
    switch (job->a->form) {
#define CASE(name, bits, wide, minimum, centre)                                                                        \
    case PLX_FORM_##name: spread_form(job, panel, (form_shape){bits, wide, minimum}, centre, weights); break;
        PLX_FORM_LIST(CASE)
#undef CASE
    default: break;
    }
}

static void task(void *argument, size_t index, int thread)
{
    const tiled_product *job = argument;
    const product *all = &job->all;
    const size_t first = index % all->across * TASK_PANELS,
                 end = plx_part_end(all->a->m, TASK_ROWS, index / all->across);
    const size_t panels = all->panels - first < TASK_PANELS ? all->panels - first : TASK_PANELS;
    const size_t panel_bytes = all->blocks * SPREAD_BLOCK;
    uint8_t *weights = all->spread + (size_t)thread * TASK_PANELS * panel_bytes;
    plx_tiles memory, *tiles = &memory;
    for (size_t p = 0; p < panels; p++) spread_panel(all, first + p, weights + p * panel_bytes);
    plx_tiles_begin_whole(tiles);
    for (size_t row = index / all->across * TASK_ROWS; row < end; row += SIDE)
        for (size_t p = 0; p < panels; p++)
            (plx_form_has_minimum(all->a->form) ? square_minimum : square_plain)(tiles, job, weights + p * panel_bytes,
                                                                                 row, first + p);
    plx_tiles_end(tiles);
}

plx_status PLX_CPU(plx_packed_matmul)(plx_context *context, const void *arguments)
{
    const plx_packed_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    tiled_product job = {.all = {.a = a, .blocks = a->k / PLX_BLOCK, .panels = plx_parts(a->n, PLX_PANEL_ROWS)}};
    product *all = &job.all;
    all->panel_bytes = all->blocks * plx_form_block_bytes(a->form);
    all->across = plx_parts(all->panels, TASK_PANELS);
    const size_t squares = plx_parts(a->m, SIDE), left = squares * all->blocks * sizeof *job.left;
    const size_t spread = (size_t)context->options.threads * TASK_PANELS * all->blocks * SPREAD_BLOCK;
    job.left = plx_kernel_scratch(context, left + spread);
    if (job.left == NULL) return PLX_ERROR_MEMORY;
    all->spread = (uint8_t *)(job.left + squares * all->blocks);
    plx_parallel_for(context, squares, quantise_rows, &job);
    plx_parallel_for(context, all->across * plx_parts(a->m, TASK_ROWS), task, &job);
    return PLX_OK;
}
