/* terms.h - f32 numbers as sums of three bf16 numbers, so that bf16 tiles multiply them to f32's precision.
 *
 * x = high + middle + low, exactly: high is x rounded to the 8 bits of a bf16, middle what is left rounded alike, and
 * what is left then has at most 8 bits. |middle| <= 2^-8 |x|, |low| <= 2^-16 |x|. Of the nine products of two numbers'
 * terms six matter: without (middle, low), (low, middle) and (low, low) at most 2^-23 |a b| is missing, where f32
 * rounds a b by up to 2^-24 |a b| itself. Tiles take terms below 2^-126 as zero. An infinite x (or one beyond the
 * largest bf16) has no finite terms, and NaN has a low term that is NaN: results stay not finite. */
#ifndef PLX_KERNELS_AMX_TERMS_H
#define PLX_KERNELS_AMX_TERMS_H

#include "kernels/amx/tile.h"

enum { TERM_HIGH, TERM_MIDDLE, TERM_LOW, TERMS };

/* The terms of each lane: numbers whose low 16 bits are zero. */
static inline void vf_terms(vf x, vf term[TERMS])
{
    const vi upper = (vi){0} + (int32_t)0xffff0000, half = (vi){0} + 0x8000;
    for (int i = 0; i < TERM_LOW; i++) {
        term[i] = (vf)(((vi)x + half) & upper); /* to nearest: which way a tie goes is in the next term */
        x -= term[i];
    }
    term[TERM_LOW] = (vf)((vi)x & upper);
}

/* 16 pairs for a row of a right operand, from terms: even[n] in the low half of lane n, odd[n] in the high. */
static inline vi vf_term_pairs(vf even, vf odd)
{
    const vi upper = (vi){0} + (int32_t)0xffff0000;
    return ((vi)even >> 16 & ~upper) | ((vi)odd & upper);
}

#endif
