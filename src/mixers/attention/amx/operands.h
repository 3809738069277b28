/* operands.h - what attention's forward and backward with bf16 tiles share:
 * operands made of rows, and powers. */
#ifndef PLX_MIXERS_ATTENTION_AMX_OPERANDS_H
#define PLX_MIXERS_ATTENTION_AMX_OPERANDS_H

#include "kernels/amx/square.h"
#include "kernels/cpu/parts.h"
#include "mixers/attention/attention_ops.h"

#include <math.h>

#define STRIP 32 /* tokens of an operand: two tiles side by side, or the depth of one */
#define LOG2_E 1.4426950408889634
enum { TILE = 512 }; /* bf16 numbers of a tile */

/* Numbers of an operand of a strip are STRIP * depth, where depth is d, up to a
 * multiple of 32. */
static inline size_t depth_of(size_t d) { return (d + 31) / 32 * 32; }

/* ---- operands of a strip ---- */

/* A strip's tokens of one head, dense: [STRIP][strip_row(depth)], so that the
 * forms below are made from near. */
static inline size_t strip_row(size_t depth) { return depth + 16; }
static inline size_t strip_floats(size_t depth) { return STRIP * strip_row(depth); }

/* Heads that are read together, and groups of them that `heads` make: a page of
 * memory a token, since tokens of one head lie far apart, where the processor
 * does not look ahead. */
#define HEADS_MOST 32
static inline size_t heads_together(size_t d)
{
    size_t count = (1024 + d - 1) / d;
    return count < HEADS_MOST ? count : HEADS_MOST;
}
static inline size_t head_groups(size_t heads, size_t d) { return (heads + heads_together(d) - 1) / heads_together(d); }

/* `heads` strips, from rows of heads * d numbers; zeros beyond d and in rows
 * that are NULL. */
static inline void read_strips(const float *const *rows, size_t heads, size_t d, size_t depth, float *to)
{
    for (size_t i = 0; i < STRIP; i++)
        for (size_t h = 0; h < heads; h++)
            for (size_t c = 0; c < depth; c += 16)
                vf_store(to + h * strip_floats(depth) + i * strip_row(depth) + c,
                         rows[i] == NULL || c >= d ? vf_set(0.0f) : vf_next(rows[i] + h * d + c, d - c));
}

/* Tokens as rows of a left operand or columns of a right one, components the
 * depth: tiles [half][depth / 32]. */
INLINE void pack_tokens(const float *strip, size_t depth, const bool right, uint16_t *to)
{
    const size_t row = strip_row(depth);
    for (size_t half = 0; half < STRIP; half += 16)
        for (size_t c = 0; c < depth; c += 32, to += TILE) {
            const float *from = strip + half * row + c;
            vf square[16];
            UNROLL for (size_t i = 0; i < 16; i++)
                vf_store_bf16(&square[i], vf_load(from + i * row), vf_load(from + i * row + 16));
            if (right) transpose(square);
            memcpy(to, square, sizeof square);
        }
}

/* Components as rows of a left operand or columns of a right one, tokens the
 * depth: tiles [depth / 16]. Tokens are in order, or in the order 0, 16, 1, 17,
 * ... */
INLINE void pack_components(const float *strip, size_t depth, const bool left, const bool in_order, uint16_t *to)
{
    const size_t row = strip_row(depth);
    for (size_t c = 0; c < depth; c += 16, to += TILE) {
        const float *from = strip + c;
        vf square[16];
        UNROLL for (size_t i = 0; i < 16; i++) square[i] = (vf)vf_bf16_pairs(
            vf_load(from + (in_order ? 2 * i : i) * row), vf_load(from + (in_order ? 2 * i + 1 : i + 16) * row));
        if (left) transpose(square);
        memcpy(to, square, sizeof square);
    }
}

/* ---- products ahead ---- */

/* Squares of 32 x 32 whose products are taken a step of depth 32 at a time
 * between vectors' work on earlier ones: the processor does both at once only
 * where their instructions lie close together. */
typedef struct ahead {
    size_t steps, done; /* of each, of all */
    struct {
        square_operand left, right;
        float *to; /* [32][32] */
    } product[2];
} ahead;

INLINE void go_ahead(plx_tiles *tiles, ahead *a, size_t until)
{
    for (; a->done < until; a->done++) {
        const size_t number = a->done >= a->steps, step = a->done - number * a->steps;
        if (step == 0) square_zero(tiles);
        square_multiply(tiles, a->product[number].left, a->product[number].right, step, 1);
        if (step + 1 == a->steps) square_store(tiles, a->product[number].to, STRIP);
    }
}

/* ---- vectors ---- */

/* 2^x to bf16's precision: a polynomial of degree 3, 7.5e-5 off, where rounding
 * to bf16 is 2e-3 off. */
INLINE vf short_exp2(vf x)
{
#if defined(__AVX512DQ__)
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_set(7.8024523e-2f) * f + vf_set(2.2606716e-1f);
    p = p * f + vf_set(6.9583354e-1f);
    p = p * f + vf_set(9.9992522e-1f);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return vf_exp2(x);
#endif
}

/* All bits set in the lanes of keys key .. key + 15 that lie in first .. last.
 */
INLINE vi keys_seen(int64_t key, int32_t first, int32_t last)
{
    static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vi number;
    memcpy(&number, numbers, sizeof number);
    number += (int32_t)key;
    return (vi)(number >= first) & (vi)(number <= last);
}

#endif
