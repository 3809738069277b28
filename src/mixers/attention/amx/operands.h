/* operands.h - what attention's forward and backward with bf16 tiles share: operands made of rows, products, powers.
 *
 * A file that includes it says first of how many terms the operands are (OPERAND_TERMS): 1, numbers rounded to bf16, or
 * 3, whose sum is the f32 number (terms.h). The terms of an operand are planes, one behind the other. */
#ifndef PLX_MIXERS_ATTENTION_AMX_OPERANDS_H
#define PLX_MIXERS_ATTENTION_AMX_OPERANDS_H

#include "kernels/amx/powers.h"
#include "kernels/amx/square.h"
#include "kernels/amx/terms.h"
#include "kernels/cpu/parts.h"
#include "mixers/attention/attention_ops.h"

#include <math.h>

#define STRIP 32 /* tokens of an operand: two tiles side by side, or the depth of one */
#define LOG2_E 1.4426950408889634
enum { TILE = 512 }; /* bf16 numbers of a tile */

/* A plane of a strip's operand has STRIP * depth numbers, where depth is d, up to a multiple of 32. */
static inline size_t depth_of(size_t d) { return (d + 31) / 32 * 32; }
static inline size_t strip_numbers(size_t depth) { return OPERAND_TERMS * STRIP * depth; }

/* ---- operands of a strip ---- */

/* A strip's tokens of one head, dense: [STRIP][strip_row(depth)], so that the forms below are made from near. */
static inline size_t strip_row(size_t depth) { return depth + 16; }
static inline size_t strip_floats(size_t depth) { return STRIP * strip_row(depth); }

/* Heads that are read together, and groups of them that `heads` make: a page of memory a token, since tokens of one
 * head lie far apart, where the processor does not look ahead. */
#define HEADS_MOST 32
static inline size_t heads_together(size_t d)
{
    size_t count = (1024 + d - 1) / d;
    return count < HEADS_MOST ? count : HEADS_MOST;
}
static inline size_t head_groups(size_t heads, size_t d) { return (heads + heads_together(d) - 1) / heads_together(d); }

/* `heads` strips, from rows of heads * d numbers; zeros beyond d and in rows that are NULL. */
static inline void read_strips(const float *const *rows, size_t heads, size_t d, size_t depth, float *to)
{
    for (size_t i = 0; i < STRIP; i++)
        for (size_t h = 0; h < heads; h++)
            for (size_t c = 0; c < depth; c += 16)
                vf_store(to + h * strip_floats(depth) + i * strip_row(depth) + c,
                         rows[i] == NULL || c >= d ? vf_set(0.0f) : vf_next(rows[i] + h * d + c, d - c));
}

/* Rows for the planes, even[n] and odd[n] as neighbours. */
INLINE void pair_rows(vf even, vf odd, vi row[OPERAND_TERMS])
{
    if (OPERAND_TERMS == 1) {
        row[0] = vf_bf16_pairs(even, odd);
        return;
    }
    vf even_terms[TERMS], odd_terms[TERMS];
    vf_terms(even, even_terms);
    vf_terms(odd, odd_terms);
    UNROLL for (int i = 0; i < OPERAND_TERMS; i++) row[i] = vf_term_pairs(even_terms[i], odd_terms[i]);
}

/* The same where the order of the numbers in a row is free. */
INLINE void free_rows(vf first, vf second, vi row[OPERAND_TERMS])
{
    if (OPERAND_TERMS == 1)
        vf_store_bf16(&row[0], first, second);
    else
        pair_rows(first, second, row);
}

/* 16 rows for each plane become tiles at `to`, a plane's `plane` numbers from the one before. */
INLINE void put_tiles(vf (*square)[16], const bool turned, size_t plane, uint16_t *to)
{
    UNROLL for (int i = 0; i < OPERAND_TERMS; i++)
    {
        if (turned) transpose(square[i]);
        memcpy(to + (size_t)i * plane, square[i], sizeof square[i]);
    }
}

/* Tokens as rows of a left operand or columns of a right one, components the depth: tiles [half][depth / 32]. */
INLINE void pack_tokens(const float *strip, size_t depth, const bool right, uint16_t *to)
{
    const size_t row = strip_row(depth);
    for (size_t half = 0; half < STRIP; half += 16)
        for (size_t c = 0; c < depth; c += 32, to += TILE) {
            const float *from = strip + half * row + c;
            vf square[OPERAND_TERMS][16];
            for (size_t i = 0; i < 16; i++) {
                vi rows[OPERAND_TERMS];
                free_rows(vf_load(from + i * row), vf_load(from + i * row + 16), rows);
                UNROLL for (int j = 0; j < OPERAND_TERMS; j++) square[j][i] = (vf)rows[j];
            }
            put_tiles(square, right, STRIP * depth, to);
        }
}

/* Orders of a strip's tokens: 0, 1, 2, ...; 0, 16, 1, 17, ...; 0 to 3, 16 to 19, 4 to 7, 20 to 23, ... */
typedef enum token_order { IN_ORDER, BY_HALVES, BY_FOURS } token_order;
/* The first and the second token of a row's pair. */
INLINE size_t pair_first(size_t i, const token_order order)
{
    return order == IN_ORDER ? 2 * i : order == BY_HALVES ? i : i / 4 * 4 + i % 2 * 2 + i % 4 / 2 * 16;
}
INLINE size_t pair_second(size_t i, const token_order order)
{
    return pair_first(i, order) + (order == BY_HALVES ? 16 : 1);
}

/* Components as rows of a left operand or columns of a right one, tokens the depth: tiles [depth / 16]. */
INLINE void pack_components(const float *strip, size_t depth, const bool left, const token_order order, uint16_t *to)
{
    const size_t row = strip_row(depth);
    for (size_t c = 0; c < depth; c += 16, to += TILE) {
        const float *from = strip + c;
        vf square[OPERAND_TERMS][16];
        for (size_t i = 0; i < 16; i++) {
            vi rows[OPERAND_TERMS];
            pair_rows(vf_load(from + pair_first(i, order) * row), vf_load(from + pair_second(i, order) * row), rows);
            UNROLL for (int j = 0; j < OPERAND_TERMS; j++) square[j][i] = (vf)rows[j];
        }
        put_tiles(square, left, STRIP * depth, to);
    }
}

/* Whether powers come from the table of powers.h: of one term, where products are enough to go with them. Then q's
 * operand holds q scaled, in forward and backward, so that scores come in the table's steps. */
static inline bool by_table(size_t depth) { return OPERAND_TERMS == 1 && depth >= 128; }
/* What q is multiplied by. */
static inline float query_factor(double scale, size_t depth)
{
    return by_table(depth) ? (float)(scale * LOG2_E * POWERS_STEPS) : 1.0f;
}
/* Of products of q's and k's operands, to powers of two. */
static inline float product_scale(double scale, size_t depth)
{
    return by_table(depth) ? 1 / POWERS_STEPS : (float)(scale * LOG2_E);
}
/* Of products of dS and q's operand, to k's gradient. */
static inline float gradient_scale(double scale, size_t depth)
{
    return by_table(depth) ? (float)(1 / (LOG2_E * POWERS_STEPS)) : (float)scale;
}
static inline void scale_queries(float *strip, size_t depth, double scale)
{
    if (!by_table(depth)) return;
    for (size_t i = 0; i < STRIP; i++)
        for (size_t c = 0; c < depth; c += 16)
            vf_store(strip + i * strip_row(depth) + c,
                     vf_load(strip + i * strip_row(depth) + c) * query_factor(scale, depth));
}

/* A bound for the squares of tokens' norms: of the sums of each lane the largest, together; infinity if a token
 * has a number that is none. */
static inline float norm_bound(const float *strip, size_t depth)
{
    vf most = vf_set(0.0f), all = most;
    for (size_t i = 0; i < STRIP; i++) {
        vf sum = vf_set(0.0f);
        for (size_t c = 0; c < depth; c += 16) {
            vf x = vf_load(strip + i * strip_row(depth) + c);
            sum += x * x;
        }
        most = vf_max(most, sum);
        all += sum;
    }
    const float bound = vf_sum(most + all * 0.0f);
    return bound == bound ? bound : INFINITY;
}

/* ---- products ---- */

typedef struct planes {
    square_operand first;
    size_t next; /* numbers from one plane to the next */
} planes;

/* The products of terms that are taken, of six those that matter; each differs in one operand from the one before. */
#define PRODUCTS (OPERAND_TERMS == 1 ? 1 : 6)
static const uint8_t left_terms[] = {TERM_HIGH, TERM_HIGH, TERM_MIDDLE, TERM_MIDDLE, TERM_HIGH, TERM_LOW};
static const uint8_t right_terms[] = {TERM_LOW, TERM_MIDDLE, TERM_MIDDLE, TERM_HIGH, TERM_HIGH, TERM_HIGH};

/* The operands of the number-th product of terms of a step of depth 32; what the one before had is in tiles. */
INLINE void load_terms(plx_tiles *tiles, const planes *left, const planes *right, size_t step, size_t number)
{
    (void)tiles;
    const uint16_t *a = left->first.data + step * left->first.step, *b = right->first.data + step * right->first.step;
    if (OPERAND_TERMS > 1) {
        a += left_terms[number] * left->next;
        b += right_terms[number] * right->next;
    }
    if (number == 0 || left_terms[number] != left_terms[number - 1]) square_left(tiles, left->first, a);
    if (number == 0 || right_terms[number] != right_terms[number - 1]) square_right(tiles, right->first, b);
}
/* c += left right, over `steps` of depth 32, from the step-th on. c is held (square.h). */
INLINE void multiply(plx_tiles *tiles, const planes left, const planes right, size_t step, size_t steps,
                     square_place *held, square_place c)
{
    for (size_t at = step; at < step + steps; at++) UNROLL for (size_t number = 0; number < PRODUCTS; number++)
        {
            load_terms(tiles, &left, &right, at, number);
            if (at == step && number == 0)
                square_dot_first(tiles, held, c, true);
            else
                square_dot(tiles);
        }
}

/* ---- products ahead ---- */

/* Squares of 32 x 32 whose products are taken a product of terms of a step of depth 32 at a time between vectors' work:
 * the processor does both at once only where their instructions lie close together. */
#define AHEAD_MOST 8
typedef struct ahead {
    size_t count, total;     /* squares; products of terms of all */
    size_t number, at, done; /* the square in work, products of it and of all that are done */
    square_place held;       /* the square whose sums still are in tiles */
    struct {
        planes left, right;
        size_t step, products;
        square_place to;
        bool add; /* to what is there */
    } square[AHEAD_MOST];
} ahead;

INLINE void ahead_clear(ahead *a)
{
    a->count = a->total = a->number = a->at = a->done = 0;
    a->held = (square_place){NULL, 0};
}

/* to (+)= left right, over `steps` of depth 32 from the step-th on. */
INLINE void ahead_add(ahead *a, planes left, planes right, size_t step, size_t steps, float *to, size_t stride,
                      bool add)
{
    const size_t i = a->count++;
    a->square[i].left = left;
    a->square[i].right = right;
    a->square[i].step = step;
    a->square[i].products = steps * PRODUCTS;
    a->square[i].to = (square_place){to, stride};
    a->square[i].add = add;
    a->total += steps * PRODUCTS;
}

INLINE void go_ahead(plx_tiles *tiles, ahead *a, size_t until)
{
    for (; a->done < until; a->done++) {
        const size_t i = a->number, at = a->at++;
        load_terms(tiles, &a->square[i].left, &a->square[i].right, a->square[i].step + at / PRODUCTS, at % PRODUCTS);
        if (at == 0)
            square_dot_first(tiles, &a->held, a->square[i].to, a->square[i].add);
        else
            square_dot(tiles);
        if (at + 1 < a->square[i].products) continue;
        a->number++;
        a->at = 0;
    }
}
/* What is left, to the stores. */
INLINE void end_ahead(plx_tiles *tiles, ahead *a)
{
    go_ahead(tiles, a, a->total);
    square_end(tiles, &a->held);
}

/* ---- vectors ---- */

/* 2^x to the operands' precision. With one term a polynomial of degree 3, 7.5e-5 off, where rounding to bf16 is 2e-3
 * off. */
INLINE vf operand_exp2(vf x)
{
#if defined(__AVX512DQ__) && OPERAND_TERMS == 1
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_set(7.8024523e-2f) * f + vf_set(2.2606716e-1f);
    p = p * f + vf_set(6.9583354e-1f);
    p = p * f + vf_set(9.9992522e-1f);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return vf_exp2(x);
#endif
}

/* All bits set in the lanes of keys key .. key + 15 that lie in first .. last. */
INLINE vi keys_seen(int64_t key, int32_t first, int32_t last)
{
    static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vi number;
    memcpy(&number, numbers, sizeof number);
    number += (int32_t)key;
    return (vi)(number >= first) & (vi)(number <= last);
}

#endif
