/* powers.h - powers of two as bf16 numbers, 32 at a time: what a softmax between products of tiles needs.
 *
 * Logits come in steps of 2^-7 of a power of two, 128 times their base-2 value, and with POWERS_ONE added: y = 128 x +
 * POWERS_ONE, rounded to a whole number, is nearly the bf16 number 2^x, whose exponent lies above 7 bits of mantissa.
 * What it has too much is 128 (f - 2^f + 1) for the fraction f, 0 to 11, which a table of 64 bytes holds. Below 2^-127
 * the result is 0 (whole numbers saturate there). The root mean square error is .0023 of the power, where rounding it
 * to bf16 alone makes .0017; the mean error is below 1e-5.
 *
 * Six instructions for two vectors of logits (two converts, pack, shift, table, subtract); beside products of tiles
 * four vectors a product cost no time. Logits must be finite and x below 128: larger ones and NaN are not told apart
 * from small ones. Whoever calls has bounded them, or goes another way. */
#ifndef PLX_KERNELS_AMX_POWERS_H
#define PLX_KERNELS_AMX_POWERS_H

#include "kernels/amx/tile.h"

#define POWERS_STEPS 128.0f
#define POWERS_ONE (127 * 128.0f) /* y of 2^0 */

/* 128 (f - 2^f + 1), mean over f about (2 i) / 128 and (2 i + 1) / 128, rounded so that the powers have no bias: the
 * three entries nearest to a half go down. */
static const uint8_t powers_excess[64] __attribute__((aligned(64))) = {
    0,  1,  1,  2,  2,  3,  4,  4,  5,  5,  5,  6,  6,  7,  7,  7,  8,  8,  8,  9,  9,  9,
    10, 10, 10, 10, 10, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10,
    10, 10, 9,  9,  9,  8,  8,  7,  7,  7,  6,  6,  5,  5,  4,  3,  3,  2,  1,  1};

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
/* Fours of y0 and of y1 in turn, as packing leaves them: each of y0 beside its one of y1. */
static inline __m512i powers_beside(__m512i z)
{
    return _mm512_shuffle_epi8(
        z, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15)));
}
static inline __m512i powers_of_whole(__m512i z)
{
    const __m512i table = _mm512_load_si512(powers_excess);
    return _mm512_sub_epi16(
        z, _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_srli_epi16(z, 1), table)); /* low bytes only */
}
#else
/* In the low half of each lane. */
static inline vi powers_of_lanes(vf y)
{
    vi power;
    for (int i = 0; i < 16; i++) {
        float rounded = y[i] > 0 ? y[i] + 0x1.8p23f - 0x1.8p23f : 0; /* not: y up to 0, and NaN */
        int32_t z = rounded < 65535 ? (int32_t)rounded : 65535;
        power[i] = z - powers_excess[z >> 1 & 63];
    }
    return power;
}
#endif

/* Rows y0 and y1 of logits as pairs for a right operand: of y0[n] in the low half of lane n, of y1[n] in the high. */
static inline vi powers_paired(vf y0, vf y1)
{
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    __m512i z = _mm512_packus_epi32(_mm512_cvtps_epi32((__m512)y0), _mm512_cvtps_epi32((__m512)y1));
    return (vi)powers_of_whole(powers_beside(z));
#else
    return powers_of_lanes(y0) | powers_of_lanes(y1) << 16;
#endif
}

/* The same of y without POWERS_ONE, at least -POWERS_ONE, which gives 0, and at most 127 POWERS_STEPS: adding 3 * 2^22
 * leaves whole numbers in the low halves, and nothing has to saturate. */
static inline vi powers_paired_near(vf y0, vf y1)
{
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    const vf whole = vf_set(0x1.8p23f + POWERS_ONE);
    __m512i z0 = (__m512i)(y0 + whole), z1 = (__m512i)(y1 + whole);
    return (vi)powers_of_whole(_mm512_mask_blend_epi16(0xaaaaaaaa, z0, _mm512_slli_epi32(z1, 16)));
#else
    return powers_of_lanes(y0 + vf_set(POWERS_ONE)) | powers_of_lanes(y1 + vf_set(POWERS_ONE)) << 16;
#endif
}

/* 32 logits of a row for a left operand, in turn four of y0 and four of y1: number 8 i + j is of y0[4 i + j], number
 * 8 i + 4 + j of y1[4 i + j], j < 4. The right operand's rows must lie in the same order. */
static inline vi powers_by_fours(vf y0, vf y1)
{
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    return (vi)powers_of_whole(_mm512_packus_epi32(_mm512_cvtps_epi32((__m512)y0), _mm512_cvtps_epi32((__m512)y1)));
#else
    vi p0 = powers_of_lanes(y0), p1 = powers_of_lanes(y1), row;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            row[4 * i + j] = p0[4 * i + 2 * j] | p0[4 * i + 2 * j + 1] << 16;
            row[4 * i + 2 + j] = p1[4 * i + 2 * j] | p1[4 * i + 2 * j + 1] << 16;
        }
    return row;
#endif
}

/* The numbers in the low and in the high halves of the lanes. */
static inline vf powers_low(vi pairs) { return (vf)(pairs << 16); }
static inline vf powers_high(vi pairs) { return (vf)(pairs & (int32_t)0xffff0000); }

#endif
