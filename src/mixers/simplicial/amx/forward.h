/* forward.h - what the two ways of forward share: a thread's memory. */
#ifndef PLX_MIXERS_SIMPLICIAL_FORWARD_H
#define PLX_MIXERS_SIMPLICIAL_FORWARD_H

#include "mixers/simplicial/amx/bf16.h"

#define UNITS 4                                           /* of a tile of rows */
#define STEPS(terms) ((terms) == 1 ? POWERS_STEPS : 1.0f) /* of a logit to a power of two: X carries the factor */
#define SUM_MOST 1e18f                                    /* of P, above which m did not do */

#define SQUARES 2 /* of logits in memory */

typedef struct memory {
    float *panels;
    uint32_t *k, *v;    /* left operands: rows, turned */
    float *x_turned;    /* [d, LANES] */
    uint32_t *x;        /* right operands: of one term LANES_WORDS, of three [lane pair][step] */
    float *s;           /* [SQUARES] of logits, in turn */
    uint32_t *p;        /* right operands [2][UNITS] */
    float *o2;          /* squares [lane pair][32 components] */
    float *sum;         /* [width], of the (query, head) in work */
    float start[LANES]; /* -m, in steps */
    float total[LANES];
    float top, mass; /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    float k_norm;    /* the largest |k|^2 */
    bool plain;      /* m of every lane is 0 */
    block block;
    plx_tiles tiles;
} memory;

/* X of a pair of lane tiles. */
INLINE const uint32_t *x_of(const int terms, const memory *m, size_t steps, size_t pair)
{
    return m->x + pair * (terms == 1 ? 32 : steps * STEP_WORDS(terms));
}

#endif
