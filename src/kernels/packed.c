/* packed.c - the forms of packed weights: their sizes, and how blocks come into them. */
#include "kernels/packed.h"

#include "kernels/half.h"

#include <math.h>

static const struct {
    const char *name;
    int bits;
    bool wide, minimum;
    int centre;
} forms[PLX_FORM_COUNT] = {[PLX_FORM_PLAIN] = {"plain", 0, false, false, 0},
#define PLX_FORM_ROW(name, bits, wide, minimum, centre) [PLX_FORM_##name] = {#name, bits, wide, minimum, centre},
                           PLX_FORM_LIST(PLX_FORM_ROW)
#undef PLX_FORM_ROW
};

const char *plx_form_name(plx_form form) { return forms[form].name; }
int plx_form_centre(plx_form form) { return forms[form].centre; }
bool plx_form_has_minimum(plx_form form) { return forms[form].minimum; }

/* Bytes of a block's scales and minima. */
static size_t head_bytes(plx_form form)
{
    return PLX_PANEL_ROWS * (forms[form].wide ? 4 : 2) * (forms[form].minimum ? 2 : 1);
}
size_t plx_form_block_bytes(plx_form form)
{
    return head_bytes(form) + PLX_PANEL_ROWS * PLX_BLOCK * (size_t)forms[form].bits / 8;
}

bool plx_form_bytes(plx_form form, size_t rows, size_t columns, size_t *bytes)
{
    size_t panels = rows / PLX_PANEL_ROWS + (rows % PLX_PANEL_ROWS != 0), blocks;
    return plx_multiply_sizes(panels, columns / PLX_BLOCK, &blocks) &&
           plx_multiply_sizes(blocks, plx_form_block_bytes(form), bytes);
}

plx_form plx_form_of(plx_packing packing)
{
    switch (packing) {
    case PLX_PACKED_Q4_0: return PLX_FORM_Q4_0;
    case PLX_PACKED_Q4_1: return PLX_FORM_Q4_1;
    case PLX_PACKED_Q5_0:
    case PLX_PACKED_Q8_0: return PLX_FORM_Q8_0;
    case PLX_PACKED_Q5_1: return PLX_FORM_Q8_1;
    case PLX_PACKED_Q4_K: return PLX_FORM_Q4_W1;
    case PLX_PACKED_Q5_K: return PLX_FORM_Q8_W1;
    case PLX_PACKED_Q6_K: return PLX_FORM_Q8_W0;
    default: return PLX_FORM_PLAIN;
    }
}

/* ---- blocks ---- */

/* Of 32 numbers the one of the largest magnitude, the first of several. */
static float largest(const float *numbers)
{
    float top = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(numbers[i]) > fabsf(top)) top = numbers[i];
    return top;
}

void plx_loose_from_numbers(plx_form form, const float *numbers, plx_loose_block *block)
{
    float top = largest(numbers);
    bool four = forms[form].bits == 4;
    float d = four ? top / -8 : fabsf(top) / 127, inverse = d != 0 ? 1 / d : 0;
    if (!isfinite(inverse)) d = inverse = 0; /* numbers too small to have a scale */
    for (int i = 0; i < 32; i++) {
        float x = numbers[i] * inverse;
        int q = four ? (int)(x + 8.5f) : (int)roundf(x);
        if (four) q = (q < 15 ? q : 15) - 8;
        block->q[i] = (int8_t)q;
    }
    block->d = forms[form].wide ? d : plx_float_of_f16(plx_f16_of_float(d));
    block->m = 0;
}

void plx_loose_from_packing(plx_packing packing, const void *row, size_t b, plx_loose_block *block)
{
    const size_t inner = plx_packing_numbers(packing) / PLX_BLOCK;
    const uint8_t *at = (const uint8_t *)row + b / inner * plx_packing_bytes(packing);
    if (packing == PLX_PACKED_Q6_K) {
        float numbers[256];
        plx_packing_unpack(packing, at, 1, numbers);
        plx_loose_from_numbers(PLX_FORM_Q8_W0, numbers + b % inner * PLX_BLOCK, block);
    } else {
        plx_packing_loosen(packing, at, (int)(b % inner), &block->d, &block->m, block->q);
    }
}

static void put_scale(plx_form form, float value, size_t place, uint8_t *at)
{
    uint16_t half = plx_f16_of_float(value);
    if (forms[form].wide)
        memcpy(at + 4 * place, &value, 4);
    else
        memcpy(at + 2 * place, &half, 2);
}

bool plx_form_put(plx_form form, const plx_loose_block *block, size_t row, void *block_at)
{
    uint8_t *at = block_at, byte[32];
    put_scale(form, block->d, row, at);
    if (forms[form].minimum) put_scale(form, block->m, PLX_PANEL_ROWS + row, at);
    at += head_bytes(form) + 4 * row;
    for (int i = 0; i < 32; i++) byte[i] = (uint8_t)(block->q[i] + forms[form].centre);
    if (forms[form].bits == 4)
        for (int i = 0; i < 16; i++) byte[i] = (uint8_t)(byte[i] | byte[i + 16] << 4);
    const size_t groups = (size_t)forms[form].bits; /* 4 or 8 groups of four bytes */
    for (size_t g = 0; g < groups; g++) memcpy(at + 4 * PLX_PANEL_ROWS * g, byte + 4 * g, 4);
    return isfinite(block->d) && isfinite(block->m);
}

/* ---- operations ---- */

PLX_CPU_DECLARE(plx_packed_matmul)
PLX_TILES_DECLARE(plx_packed_matmul)
plx_status plx_packed_matmul_vnni(plx_context *context, const void *arguments);
plx_status plx_packed_matmul_ref(plx_context *context, const void *arguments);
plx_status plx_packed_rows_ref(plx_context *context, const void *arguments);

_Static_assert(offsetof(plx_packed_matmul_args, type) == 0, "accepts_f32 reads the type first");
static bool accepts_f32(const void *arguments) { return *(const plx_type *)arguments == PLX_F32; }

/* Few rows do not fill tiles: 16 rows cost what one does. */
static bool accepts_tiles(const void *arguments)
{
    const plx_packed_matmul_args *a = arguments;
    return a->type == PLX_F32 && a->m >= 8;
}

static const plx_kernel matmul_kernels[] = {
#if defined(__x86_64__)
    {"amx", PLX_LEVEL_AMX, accepts_tiles, plx_packed_matmul_amx},
        {"vnni", PLX_LEVEL_VNNI, accepts_f32, plx_packed_matmul_vnni},
#endif
    PLX_CPU_KERNELS(plx_packed_matmul, accepts_f32)
        PLX_TILES_EMULATED(plx_packed_matmul, accepts_f32){"ref", PLX_LEVEL_PORTABLE, NULL, plx_packed_matmul_ref},
    {0}};
static double matmul_flops(const void *arguments)
{
    const plx_packed_matmul_args *a = arguments;
    return 2.0 * (double)a->m * (double)a->n * (double)a->k;
}
const plx_op plx_op_packed_matmul = {"packed_matmul", matmul_flops, matmul_kernels};

static const plx_kernel rows_kernels[] = {{"ref", PLX_LEVEL_PORTABLE, NULL, plx_packed_rows_ref}, {0}};
const plx_op plx_op_packed_rows = {"packed_rows", NULL, rows_kernels};
