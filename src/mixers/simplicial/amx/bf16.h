/* bf16.h - for operands of one bf16 number: X straight in its operand's form, and P straight from the logits of a unit
 * (kernels/amx/powers.h), where a bound of the logits allows it. */
#ifndef PLX_MIXERS_SIMPLICIAL_BF16_H
#define PLX_MIXERS_SIMPLICIAL_BF16_H

#include "kernels/amx/powers.h"
#include "mixers/simplicial/amx/operands.h"

typedef uint32_t vu __attribute__((vector_size(64)));

/* ---- X ---- */

/* Lanes as right operands [step][16][LANES]: a step's rows lie beside those of the other lane tiles, so that a vector
 * is stored where its lanes are, whatever tiles those belong to. */
#define LANES_STEP_WORDS ((size_t)16 * LANES)
#define LANES_WORDS(width) ((width) / 32 * LANES_STEP_WORDS + PLX_VW) /* room for a vector more */

/* Component l of a piece, 0 beyond those that count. */
INLINE vf piece_part(const chunk *c, const piece *of, bool cross, size_t l)
{
    if (l >= (cross ? c->d / 3 * 3 : c->d)) return vf_set(0);
    if (!cross) return vf_load(of->panel + l * c->row2) * vf_set(of->a[l]);
    size_t one, two;
    lanes_cross(l, &one, &two);
    return vf_load(of->panel + one * c->row2) * vf_set(of->a[two]) -
           vf_load(of->panel + two * c->row2) * vf_set(of->a[one]);
}
INLINE void build_pieces(const chunk *c, const size_t count, const piece *pieces, bool cross, float factor,
                         uint32_t *to)
{
    for (size_t l = 0; l < c->width; l += l % 32 == 15 ? 17 : 1, to += LANES) UNROLL for (size_t i = 0; i < count; i++)
        {
            const piece *of = &pieces[i];
            put_pairs(1, piece_part(c, of, cross, l) * vf_set(factor),
                      piece_part(c, of, cross, l + 16) * vf_set(factor), to + of->lane);
        }
}
/* What lanes_build_turned makes (cpu/lanes.h), as that right operand. */
static inline void build_lanes(const chunk *c, const block *at, const void *array, const float *turned, bool cross,
                               float factor, uint32_t *to)
{
    piece pieces[2 * LANES];
    size_t count = lanes_pieces(c, at, array, turned, pieces), whole = LANES / PLX_VW;
    if (cross)
        build_pieces(c, count, pieces, true, factor, to);
    else if (count == whole)
        build_pieces(c, whole, pieces, false, factor, to);
    else
        build_pieces(c, count, pieces, false, factor, to);
    size_t nothing = pairs_of(at) * 32 - at->lanes; /* lanes of nothing in the last pair of tiles */
    for (size_t row = 0; nothing > 0 && row < c->width / 2; row++)
        memset(to + row * LANES + at->lanes, 0, nothing * sizeof *to);
}

/* The largest |x|^2 of lanes as lanes_build_turned makes them; of operands as build_lanes does. */
static inline float turned_norm(const chunk *c, const block *at, const float *turned)
{
    largest most = {0};
    for (size_t tile = 0; tile < at->vectors; tile++) {
        vf sum = vf_set(0);
        for (size_t l = 0; l < c->d; l++) sum += lane_part(c, at, turned, l, tile) * lane_part(c, at, turned, l, tile);
        largest_add(&most, sum);
    }
    return largest_end(&most);
}
static inline float lanes_norm(const chunk *c, const block *at, const uint32_t *x)
{
    largest most = {0};
    for (size_t lane = 0; lane < pairs_of(at) * 32; lane += 16) {
        vf even = vf_set(0), odd = vf_set(0);
        for (size_t row = 0; row < c->width / 2; row++) {
            vi pairs;
            memcpy(&pairs, x + row * LANES + lane, sizeof pairs);
            even += powers_low(pairs) * powers_low(pairs);
            odd += powers_high(pairs) * powers_high(pairs);
        }
        largest_add(&most, even + odd);
    }
    return largest_end(&most);
}

/* ---- P ---- */

/* Whether logits in steps, of which the largest |k|^2 and |x|^2 are given, are all within 2^LOGIT_MOST of 1. False
 * where some are no numbers. P and its sums then are far from the ends of bf16's and f32's range. */
#define LOGIT_MOST 64.0f
static inline bool bounded(float k_norm, float x_norm)
{
    float most = LOGIT_MOST * POWERS_STEPS;
    return k_norm * x_norm < most * most;
}

/* powers_paired_near of any logits: NaN stays NaN. */
static inline vi power_pairs_careful(vf y0, vf y1)
{
    return vf_bf16_pairs(tile_exp2(y0 * vf_set(1 / POWERS_STEPS)), tile_exp2(y1 * vf_set(1 / POWERS_STEPS)));
}
INLINE vf pairs_add(vf sum, vi pairs) { return sum + (powers_low(pairs) + powers_high(pairs)); }

#endif
