/* columns.c - sums over rows. The columns are divided, never the rows: each is summed in the order of the rows. */
#include "kernels/cpu/parts.h"
#include "kernels/ref/ref.h"

/* Blocks of rows are summed apart, which keeps the rounding of long sums small. */
#define BLOCK_ROWS ((size_t)64)

static void column_sum_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_column_sum_args *a = argument;
    size_t end = plx_part_end(a->width, PLX_PART_COLUMNS, index);
    float *out = a->out;
    for (size_t i = index * PLX_PART_COLUMNS; i < end; i += PLX_VW) {
        size_t left = end - i;
        vf total = vf_set(0.0f);
        for (size_t begin = 0; begin < a->rows; begin += BLOCK_ROWS) {
            size_t stop = a->rows - begin < BLOCK_ROWS ? a->rows : begin + BLOCK_ROWS;
            vf sum = vf_set(0.0f);
            for (size_t row = begin; row < stop; row++) sum += vf_next((const float *)a->x + row * a->width + i, left);
            total += sum;
        }
        vf_put(out + i, vf_next(out + i, left) + total, left);
    }
}

plx_status PLX_CPU(plx_column_sum)(plx_context *context, const void *arguments)
{
    const plx_column_sum_args *a = arguments;
    plx_parallel_for(context, plx_parts(a->width, PLX_PART_COLUMNS), column_sum_part, (void *)arguments);
    return PLX_OK;
}

static void embedding_backward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_embedding_backward_args *a = argument;
    size_t begin = index * PLX_PART_COLUMNS, end = plx_part_end(a->width, PLX_PART_COLUMNS, index);
    for (size_t token = 0; token < a->tokens; token++) {
        const float *dy = (const float *)a->dy + token * a->width;
        float *row = (float *)a->dtable + (size_t)a->ids[token] * a->width;
        for (size_t i = begin; i < end; i += PLX_VW)
            vf_put(row + i, vf_next(row + i, end - i) + vf_next(dy + i, end - i), end - i);
    }
}

plx_status PLX_CPU(plx_embedding_backward)(plx_context *context, const void *arguments)
{
    const plx_embedding_backward_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->ids, NULL, a->tokens, a->vocab));
    plx_parallel_for(context, plx_parts(a->width, PLX_PART_COLUMNS), embedding_backward_part, (void *)arguments);
    return PLX_OK;
}
