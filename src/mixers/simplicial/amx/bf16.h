/* bf16.h - backward's P in bf16, straight from the logits of a unit. */
#ifndef PLX_MIXERS_SIMPLICIAL_BF16_H
#define PLX_MIXERS_SIMPLICIAL_BF16_H

#include "kernels/amx/powers.h"
#include "mixers/simplicial/amx/operands.h"

typedef uint32_t vu __attribute__((vector_size(64)));

/* Logits arrive in steps of 2^-9 of a power of two (X carries the factor), so that y = S + POWER_START - 512 m is, as a
 * whole number, nearly the bf16 number 2^(S/512 - m) with two more bits: exponent, then mantissa. What is missing is
 * 2^f - 1 - f = -f (1 - f) (.308 + .082 f), within 4e-4. All of it is done on 16-bit numbers, twice as many to a
 * vector, and its rounding costs little beside that of P to bf16: .00177 of P in the root mean square where rounding
 * alone is .00166. Below 2^-127 P is 0, above 2 it stays there. */
#define LOGIT_STEPS 512.0f
#define POWER_START (127 * 512 + 1.5f) /* half a step of bf16 less the mean of what the products below cut off */
#define POWER_A 158
#define POWER_B 42

/* Rows y0, y1 of 16 lanes: pairs of bf16. */
INLINE vi power_pairs(vf y0, vf y1)
{
#if defined(__AVX512BW__)
    const __m512i mix = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __m512i z = _mm512_packus_epi32(_mm512_cvtps_epi32((__m512)y0), _mm512_cvtps_epi32((__m512)y1));
    z = _mm512_shuffle_epi8(z, mix);
    __m512i f = _mm512_slli_epi16(z, 7);
    __m512i bend = _mm512_mulhi_epu16(f, _mm512_sub_epi16(_mm512_setzero_si512(), f));
    __m512i slope = _mm512_add_epi16(_mm512_mulhi_epu16(f, _mm512_set1_epi16(POWER_B)), _mm512_set1_epi16(POWER_A));
    z = _mm512_sub_epi16(z, _mm512_mulhi_epu16(bend, slope));
    return (vi)_mm512_srli_epi16(z, 2);
#else
    vu pair[2];
    for (int i = 0; i < 2; i++) {
        vf y = i == 0 ? y0 : y1;
        y = vf_min(vf_max(y, vf_set(0)), vf_set(65535));
        vu z = (vu) __builtin_convertvector(y + vf_set(0.5f), vi);
        vu f = z << 7 & 0xffff, bend = f * (-f & 0xffff) >> 16, slope = (f * POWER_B >> 16) + POWER_A;
        pair[i] = (z - (bend * slope >> 16)) >> 2;
    }
    return (vi)(pair[0] | pair[1] << 16);
#endif
}
/* The same for logits that are no numbers, or too large for whole ones: NaN stays NaN. */
static inline vi power_pairs_careful(vf y0, vf y1)
{
    y0 = tile_exp2((y0 - vf_set(POWER_START)) * vf_set(1 / LOGIT_STEPS));
    y1 = tile_exp2((y1 - vf_set(POWER_START)) * vf_set(1 / LOGIT_STEPS));
    return vf_bf16_pairs(y0, y1);
}

/* Whether logits, in steps, of which the largest |k|^2 and component of X are given, may be too large for whole numbers
 * of 32 bits, or no numbers at all. */
static inline bool needs_care(size_t d, float k_norm, float largest_x)
{
    return !(sqrtf(k_norm) * largest_x * sqrtf((float)d) < 0x1p30f);
}

#endif
