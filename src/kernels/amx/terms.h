/* terms.h - f32 numbers as sums of three bf16 numbers, so that bf16 tiles multiply them to f32's precision.
 *
 * x = high + middle + low, exactly: high is x cut off behind the 8 bits of a bf16, middle what is left rounded to 8
 * bits, and what is left then has at most 8 bits. |middle| <= 2^-7 |x|, |low| <= 2^-16 |x|, of either sign alike. Of
 * the nine products of two numbers' terms six are added: without (middle, low), (low, middle) and (low, low) at most
 * 2^-22 |a b| is missing, 2^-25 in the root mean square, where f32 rounds a b by up to 2^-24 |a b| itself. Tiles take
 * terms below 2^-126 as zero. Every finite x has finite terms; an infinite one has terms that are NaN, as NaN has:
 * results stay not finite. */
#ifndef PLX_KERNELS_AMX_TERMS_H
#define PLX_KERNELS_AMX_TERMS_H

#include "kernels/amx/tile.h"

enum { TERM_HIGH, TERM_MIDDLE, TERM_LOW, TERMS };

/* The terms of each lane, in the upper 16 bits; the lower ones are zero but where the last term is below 2^-126. */
static inline void vf_terms(vf x, vf term[TERMS])
{
    const vi upper = (vi){0} + (int32_t)0xffff0000, half = (vi){0} + 0x8000;
    term[TERM_HIGH] = (vf)((vi)x & upper);
    x -= term[TERM_HIGH];
    term[TERM_MIDDLE] = (vf)(((vi)x + half) & upper); /* which way a tie goes is in the last term */
    term[TERM_LOW] = x - term[TERM_MIDDLE];
}

/* Two vectors of terms in one: even[n] in the low half of lane n, odd[n] in the high. */
static inline vi vf_term_pairs(vf even, vf odd)
{
    typedef uint32_t words __attribute__((vector_size(sizeof(vi))));
    const vi upper = (vi){0} + (int32_t)0xffff0000;
    return (vi)((words)even >> 16) | ((vi)odd & upper);
}

#endif
