/* packed_parts.h - what all products with packed weights share: a panel's forms as constants of inlined code, its
 * spreading into bytes, x in whole numbers, and what is done with a sum. */
#ifndef PLX_KERNELS_CPU_PACKED_PARTS_H
#define PLX_KERNELS_CPU_PACKED_PARTS_H

#include "kernels/cpu/parts.h"
#include "kernels/half.h"
#include "kernels/packed.h"

#define VECTORS (PLX_PANEL_ROWS / PLX_VW) /* of a panel's rows */
#define SPREAD_BLOCK ((size_t)640)        /* bytes of a spread panel's block: 16 scales, 16 minima, 512 numbers */

typedef vi vi_unaligned __attribute__((aligned(1), may_alias));
typedef uint16_t halves __attribute__((vector_size(PLX_VW * 2)));
typedef halves halves_unaligned __attribute__((aligned(2), may_alias));
typedef uint8_t octets __attribute__((vector_size(PLX_VW * 4)));

INLINE vf whole_to_float(vi x) { return __builtin_convertvector(x, vf); }
INLINE vf multiply_add(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && PLX_VW == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* plx_quantise_block, by whole registers where the compiler does not find them: the same operations. */
INLINE void quantise(const float *x, int centre, plx_quantised *to)
{
#if defined(__AVX512F__)
    const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
    const __m512i sign = _mm512_set1_epi32((int32_t)0x80000000);
    const __m512i size = _mm512_max_epi32(_mm512_andnot_si512(sign, (__m512i)first),
                                          _mm512_andnot_si512(sign, (__m512i)second)); /* NaN last */
    const int32_t top = _mm512_reduce_max_epi32(size);
    if (top >= 0x7f800000) {
        plx_quantise_block(x, centre, to);
        return;
    }
    float most;
    memcpy(&most, &top, sizeof most);
    const __m512 inverse = _mm512_set1_ps(most > 1e-36f ? 127.0f / most : 0.0f);
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    _mm_storeu_si128((__m128i *)(void *)to->q, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(void *)(to->q + 16), _mm512_cvtepi32_epi8(high));
    to->scale = most > 1e-36f ? most / 127.0f : 0.0f;
    to->shift = to->scale * (float)sum;
    to->offset = -centre * sum;
    to->unused = 0;
#else
    plx_quantise_block(x, centre, to);
#endif
}

/* ---- forms, as constants of inlined code ---- */

typedef struct form_shape {
    int bits;
    bool wide, minimum;
} form_shape;

INLINE size_t head_of(form_shape form) { return PLX_PANEL_ROWS * (form.wide ? 4 : 2) * (form.minimum ? 2 : 1); }
INLINE size_t block_of(form_shape form) { return head_of(form) + PLX_PANEL_ROWS * PLX_BLOCK * (size_t)form.bits / 8; }

/* Scales (which 0) or minima (1) of vector v of the panel's rows. */
INLINE vf scales_of(const uint8_t *block, form_shape form, size_t which, size_t v)
{
    const size_t place = which * PLX_PANEL_ROWS + v * PLX_VW;
    if (form.wide) return vf_load((const float *)(const void *)(block + 4 * place));
    halves half = *(const halves_unaligned *)(const void *)(block + 2 * place);
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps((__m256i)half);
#else
    vi bits = __builtin_convertvector(half, vi); /* as plx_float_of_f16; scales are finite */
    vf magnitude = (vf)((bits & 0x7fff) << 13) * vf_set(0x1p112f);
    return (vf)((vi)magnitude | (bits & 0x8000) << 16);
#endif
}
/* Group g of vector v of the panel's rows, four bytes of numbers a lane. */
INLINE vi bytes_of(const uint8_t *block, form_shape form, size_t g, size_t v)
{
    const uint8_t *at = block + head_of(form) + v * PLX_VW * 4;
    if (form.bits == 8) return *(const vi_unaligned *)(const void *)(at + 64 * g);
    vi both = *(const vi_unaligned *)(const void *)(at + 64 * (g % 4));
    return (g < 4 ? both : both >> 4) & 0x0f0f0f0f;
}

/* ---- one product ---- */

typedef struct product {
    const plx_packed_matmul_args *a;
    plx_quantised *x; /* [m][blocks] */
    uint8_t *spread;  /* [threads] panels of [blocks][SPREAD_BLOCK] */
    size_t blocks, panels, panel_bytes;
    int centre;
    size_t part;   /* few rows: panels of a task */
    size_t across; /* many rows: tasks side by side */
} product;

INLINE void store(const product *job, size_t row, size_t panel, const vf sum[VECTORS])
{
    const plx_packed_matmul_args *a = job->a;
    for (size_t v = 0; v < VECTORS; v++) {
        size_t column = panel * PLX_PANEL_ROWS + v * PLX_VW;
        if (column >= a->n) return;
        size_t left = a->n - column;
        float *y = (float *)a->y + row * a->n + column;
        vf value = sum[v];
        if (a->bias != NULL && a->bias_type == PLX_F32) value += vf_next((const float *)a->bias + column, left);
        if (a->bias != NULL && a->bias_type != PLX_F32) {
            float lanes[PLX_VW] = {0};
            for (size_t i = 0; i < PLX_VW && i < left; i++)
                lanes[i] = (float)plx_get(a->bias, a->bias_type, column + i);
            value += vf_load(lanes);
        }
        if (a->beta != 0) value += vf_set((float)a->beta) * vf_next(y, left);
        vf_put(y, value, left);
    }
}

/* The panel as 8 bits with wide scales: the same numbers less `centre`, modulo 256. */
INLINE void spread_form(const product *job, size_t panel, form_shape form, int centre, uint8_t *to)
{
    const uint8_t *from = (const uint8_t *)job->a->weights + panel * job->panel_bytes;
    const form_shape bytes = {8, true, form.minimum};
    for (size_t b = 0; b < job->blocks; b++, from += block_of(form), to += block_of(bytes))
        for (size_t v = 0; v < VECTORS; v++) {
            float *head = (float *)(void *)to + v * PLX_VW;
            vf_store(head, scales_of(from, form, 0, v));
            if (form.minimum) vf_store(head + PLX_PANEL_ROWS, scales_of(from, form, 1, v));
            for (size_t g = 0; g < 8; g++)
                *(vi_unaligned *)(void *)(to + head_of(bytes) + 64 * g + v * PLX_VW * 4) =
                    (vi)((octets)bytes_of(from, form, g, v) - (uint8_t)centre);
        }
}

#endif
