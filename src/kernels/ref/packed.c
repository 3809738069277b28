/* packed.c - products with packed weights by their definition, and packed rows as numbers. */
#include "kernels/packed.h"

#include "kernels/half.h"
#include "kernels/ref/ref.h"

static const struct {
    int bits;
    bool wide, minimum;
} forms[PLX_FORM_COUNT] = {
#define PLX_FORM_ROW(name, bits, wide, minimum, centre) [PLX_FORM_##name] = {bits, wide, minimum},
    PLX_FORM_LIST(PLX_FORM_ROW)
#undef PLX_FORM_ROW
};

static float get_scale(plx_form form, const uint8_t *at, size_t place)
{
    float value;
    uint16_t half;
    if (forms[form].wide) {
        memcpy(&value, at + 4 * place, 4);
        return value;
    }
    memcpy(&half, at + 2 * place, 2);
    return plx_float_of_f16(half);
}

/* Block b of row `row` of a matrix with `blocks` blocks a row. */
static void take_block(plx_form form, const void *weights, size_t blocks, size_t row, size_t b, plx_loose_block *block)
{
    const size_t lane = row % PLX_PANEL_ROWS;
    const uint8_t *at = (const uint8_t *)weights + (row / PLX_PANEL_ROWS * blocks + b) * plx_form_block_bytes(form);
    const int centre = plx_form_centre(form);
    block->d = get_scale(form, at, lane);
    block->m = forms[form].minimum ? get_scale(form, at, PLX_PANEL_ROWS + lane) : 0;
    at += PLX_PANEL_ROWS * (forms[form].wide ? 4 : 2) * (forms[form].minimum ? 2 : 1) + 4 * lane;
    for (size_t i = 0; i < 32; i++) {
        if (forms[form].bits == 8)
            block->q[i] = (int8_t)(at[4 * PLX_PANEL_ROWS * (i / 4) + i % 4] - centre);
        else
            block->q[i] = (int8_t)((at[4 * PLX_PANEL_ROWS * (i % 16 / 4) + i % 4] >> i / 16 * 4 & 15) - centre);
    }
}

/* ---- rows ---- */

static void rows_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_packed_rows_args *a = argument;
    const size_t row = a->ids != NULL ? (size_t)a->ids[index] : a->first + index, blocks = a->k / PLX_BLOCK;
    plx_loose_block block;
    for (size_t b = 0; b < blocks; b++) {
        take_block(a->form, a->weights, blocks, row, b, &block);
        size_t at = index * a->k + b * PLX_BLOCK;
        if (a->type == PLX_F32) {
            float *y = (float *)a->y + at;
            for (size_t i = 0; i < PLX_BLOCK; i++) y[i] = block.d * (float)block.q[i];
            for (size_t i = 0; i < PLX_BLOCK && forms[a->form].minimum; i++) y[i] += block.m;
        } else {
            double *y = (double *)a->y + at;
            for (size_t i = 0; i < PLX_BLOCK; i++) y[i] = (double)block.d * block.q[i] + (double)block.m;
        }
    }
}

plx_status plx_packed_rows_ref(plx_context *context, const void *arguments)
{
    const plx_packed_rows_args *a = arguments;
    if (a->ids != NULL) PLX_TRY(plx_check_ids(context, a->ids, NULL, a->count, a->n));
    plx_parallel_for(context, a->count, rows_part, (void *)arguments);
    return PLX_OK;
}

/* ---- products ---- */

/* What x row `row`'s block b counts as, times what the weights' block stands for. */
static double block_product(const plx_packed_matmul_args *a, size_t row, size_t b, const plx_loose_block *w)
{
    double sum = 0, plain = 0;
    plx_quantised x;
    if (a->type == PLX_F32) plx_quantise_block((const float *)a->x + row * a->k + b * PLX_BLOCK, 0, &x);
    for (size_t i = 0; i < PLX_BLOCK; i++) {
        double value =
            a->type == PLX_F32 ? x.scale * (double)x.q[i] : plx_ref_get(a->x, a->type, row * a->k + b * PLX_BLOCK + i);
        sum += w->q[i] * value;
        plain += value;
    }
    return w->d * sum + w->m * plain;
}

plx_status plx_packed_matmul_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_packed_matmul_args *a = arguments;
    const size_t blocks = a->k / PLX_BLOCK;
    plx_loose_block w;
    for (size_t i = 0; i < a->m; i++) {
        for (size_t j = 0; j < a->n; j++) {
            double sum = a->bias != NULL ? plx_ref_get(a->bias, a->bias_type, j) : 0;
            if (a->beta != 0) sum += a->beta * plx_ref_get(a->y, a->type, i * a->n + j);
            for (size_t b = 0; b < blocks; b++) {
                take_block(a->form, a->weights, blocks, j, b, &w);
                sum += block_product(a, i, b, &w);
            }
            plx_ref_put(a->y, a->type, i * a->n + j, sum);
        }
    }
    return PLX_OK;
}
