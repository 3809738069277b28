/* forward.h - what the two ways of forward share: a thread's memory, and the bounds of logits. */
#ifndef PLX_MIXERS_SIMPLICIAL_FORWARD_H
#define PLX_MIXERS_SIMPLICIAL_FORWARD_H

#include "kernels/amx/powers.h"
#include "mixers/simplicial/amx/operands.h"

#define UNITS(terms) ((terms) == 1 ? 8 : 4)               /* of a tile of rows */
#define STEPS(terms) ((terms) == 1 ? POWERS_STEPS : 1.0f) /* of a logit to a power of two: X carries the factor */
#define SUM_MOST 1e18f                                    /* of P, above which m did not do */

typedef struct memory {
    float *panels;
    uint32_t *k, *v;    /* left operands: rows, turned */
    float *x_turned;    /* [d, LANES] */
    uint32_t *x;        /* right operands [lane pair][step] */
    float *s;           /* [2] squares of logits */
    uint32_t *p;        /* right operands [UNITS] */
    float *o2;          /* squares [lane pair][32 components] */
    float *sum;         /* [width], of the (query, head) in work */
    float start[LANES]; /* -m, in steps */
    float total[LANES];
    float top, mass;       /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    float k_norm, k2_norm; /* the largest |k|^2, |k'|^2 */
    block block;
    sums_square held;
    plx_tiles tiles;
} memory;

/* The largest |k'|^2. */
static inline float short_norm(const chunk *c)
{
    largest most = {0};
    for (size_t i = 0; i < c->count2; i++) {
        vf sum = vf_set(0);
        for (size_t l = 0; l < c->width; l += 16) {
            vf x = vf_load(c->k2 + i * c->width + l);
            sum += x * x;
        }
        largest_add(&most, vf_set(vf_sum(sum)));
    }
    return largest_end(&most);
}

/* Whether all logits of the block are within 2^LOGIT_MOST of 1; false where some are no numbers. P and its sums then
 * are far from the ends of bf16's and f32's range. |x| is at most |k'| times the largest |q_c|, sqrt(3) times that for
 * a cross product. */
#define LOGIT_MOST 80.0f
static inline bool bounded(const chunk *c, const memory *m)
{
    largest most = {0};
    for (size_t i = 0; i < m->block.segments; i++) {
        const float *q = lanes_at(c, c->p->q, m->block.segment[i].query, m->block.segment[i].head);
        for (size_t l = 0; l < c->d; l += 16) largest_add(&most, vf_next(q + l, c->d - l));
    }
    float factor = (float)(c->p->scale * LOG2_E) * largest_end(&most);
    float x_norm = factor * factor * m->k2_norm * (c->p->form == PLX_SIMPLICIAL_DET ? 3 : 1);
    return x_norm * m->k_norm < LOGIT_MOST * LOGIT_MOST;
}

/* The part of a segment in a pair of lane tiles; count 0 where there is none. */
static inline segment part_in(const segment *s, size_t pair)
{
    size_t from = pair * 32, to = from + 32;
    segment part = *s;
    if (from > s->lane) part.lane = from;
    if (to > s->lane + s->count) to = s->lane + s->count;
    part.count = to > part.lane ? to - part.lane : 0;
    part.k += part.lane - s->lane;
    part.first = s->first && part.lane == s->lane;
    part.last = s->last && to == s->lane + s->count;
    return part;
}

/* X of a pair of lane tiles straight as its operand, from k2_turned that has the factor; false where a tile's lanes are
 * not all of one segment. */
static inline bool build_pair(const chunk *c, const block *at, size_t pair, uint32_t *to)
{
    const float *panel[2] = {NULL, NULL}, *q[2] = {NULL, NULL};
    if (c->d % 32 != 0 || c->p->form == PLX_SIMPLICIAL_DET) return false;
    for (size_t i = 0; i < at->segments; i++)
        for (size_t n = 0; n < 2; n++) {
            const segment *s = &at->segment[i];
            size_t lane = pair * 32 + n * 16;
            if (s->lane > lane || s->lane + s->count < lane + 16) continue;
            panel[n] = c->k2_turned + s->k + lane - s->lane;
            q[n] = lanes_at(c, c->p->q, s->query, s->head);
        }
    if (panel[0] == NULL || panel[1] == NULL) return false;
    size_t row2 = c->row2;
    for (size_t l = 0; l < c->d; l += 32, to += STEP_WORDS(1))
        for (size_t i = 0; i < 16; i++) UNROLL for (size_t n = 0; n < 2; n++)
            {
                const float *x = panel[n] + (l + i) * row2, *a = q[n] + l + i;
                put_pairs(1, vf_load(x) * vf_set(a[0]), vf_load(x + 16 * row2) * vf_set(a[16]), to + n * TILE + i * 16);
            }
    return true;
}

#endif
