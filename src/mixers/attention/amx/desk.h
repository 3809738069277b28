/* desk.h - 32 queries of attention's forward with bf16 tiles: their scores, P of these, and what is summed. */
#ifndef PLX_MIXERS_ATTENTION_AMX_DESK_H
#define PLX_MIXERS_ATTENTION_AMX_DESK_H

#include "mixers/attention/amx/operands.h"
#include "mixers/attention/amx/soon.h"

#define ROWS 32    /* queries of a desk */
#define STEP STRIP /* keys of a step */
#define KEYS 256   /* keys between two visits to O */
#define P_PLANE (ROWS * KEYS)
/* Steps whose P V is added to O at a time: they must be many for the loads and stores of O not to count, and few for
 * products to go with all the vectors' work. */
#define PIECE (OPERAND_TERMS == 1 ? KEYS / STEP : 2)
#define MOST_SUM 1e18f

/* Powers of two up to which scores, in both directions, need no tops: MOST_SUM. */
#define MOST_SCORE 60.0f
/* 32 queries of a job and what they have summed. */
typedef struct desk {
    uint16_t *q;  /* [2][depth / 32] tiles */
    float *out;   /* [32][depth] */
    vf sum[ROWS]; /* lane by lane */
    float top[ROWS];
    int32_t first[ROWS], last[ROWS];
    size_t query[ROWS], count;
    int64_t begin, end, all_begin, all_end; /* as in cpu/tiles.h */
    bool bounded;                           /* no score is beyond MOST_SCORE: tops are 0 */
    bool at_once;                           /* P V of a tile is added when all its P are made */
    bool topped;                            /* top is set */
    float scale;                            /* of the operands' products */
} desk;

/* s = Q K^T of a step of keys. */
INLINE void add_scores(ahead *a, const desk *x, const uint16_t *k, size_t depth, float *s)
{
    ahead_add(a, (planes){{x->q, 16 * depth, TILE}, STRIP * depth}, (planes){{k, 16 * depth, TILE}, STRIP * depth}, 0,
              depth / 32, s, STEP, false);
}

/* out += P V of steps from .. to - 1 of a tile, in pieces: `done` of `count`. */
typedef struct values {
    float *out;
    const uint16_t *p, *v; /* of the tile's first step */
    size_t depth, from, to;
    size_t done, count;
} values;

static size_t pieces(const values *y) { return (y->to - y->from + PIECE - 1) / PIECE; } /* of 32 components */

/* Up to `count` more pieces. */
static void add_values(ahead *a, values *y, size_t count)
{
    const size_t each = pieces(y), depth = y->depth;
    for (; count > 0 && y->done < y->count && a->count < AHEAD_MOST; count--, y->done++) {
        const size_t c = y->done / each * 32, step = y->from + y->done % each * PIECE;
        ahead_add(a, (planes){{y->p, KEYS / STEP * TILE, TILE}, P_PLANE},
                  (planes){{y->v + c / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth}, step,
                  y->to - step < PIECE ? y->to - step : PIECE, y->out + c, depth, true);
    }
}

/* A row of P as keys lie in it and in V's operand: of one term in order, or BY_FOURS as powers.h makes them. */
INLINE void order_keys(vf left, vf right, const bool by_fours, vi rows[OPERAND_TERMS])
{
    if (!by_fours) {
        free_rows(left, right, rows);
        return;
    }
    typedef int64_t fours __attribute__((vector_size(64)));
    vi row;
    vf_store_bf16(&row, left, right);
    rows[0] = (vi)__builtin_shufflevector((fours)row, (fours)row, 0, 4, 1, 5, 2, 6, 3, 7);
}

/* P of a step from its scores, to the tiles from `to` on, with `next` products meanwhile. With `seen`, 0 where a query
 * does not see the key. */
INLINE void make_probabilities(plx_tiles *tiles, desk *x, const float *s, uint16_t *to, int64_t key, const bool seen,
                               ahead *next, soon *soon)
{
    for (int row = 0; row < ROWS; row++, s += STEP) {
        if (row % 4 == 0) {
            go_ahead(tiles, next, next->total * ((size_t)row + 4) / ROWS);
            if (soon != NULL) soon_fetch(soon);
        }
        vf left = operand_exp2(vf_load(s) * x->scale - x->top[row]);
        vf right = operand_exp2(vf_load(s + 16) * x->scale - x->top[row]);
        if (seen) {
            left = vf_select(keys_seen(key, x->first[row], x->last[row]), left, vf_set(0.0f));
            right = vf_select(keys_seen(key + 16, x->first[row], x->last[row]), right, vf_set(0.0f));
        }
        vi rows[OPERAND_TERMS];
        order_keys(left, right, OPERAND_TERMS == 1 && x->at_once, rows);
        uint16_t *p = to + (size_t)(row / 16) * (KEYS / STEP) * TILE + row % 16 * 32;
        UNROLL for (int i = 0; i < OPERAND_TERMS; i++) memcpy(p + i * P_PLANE, &rows[i], sizeof rows[i]);
        x->sum[row] += left + right;
    }
}

/* The same by the table of powers.h, for bounded scores of keys that all queries see; with `summed`, sums too. Other
 * keys' powers are precise: what the table is off by is not made up for where a query sees few keys. */
INLINE void make_bounded(plx_tiles *tiles, desk *x, const float *s, uint16_t *to, const bool summed, ahead *next,
                         soon *soon)
{
    for (int from = 0; from < ROWS; from += 4) {
        go_ahead(tiles, next, next->total * ((size_t)from + 4) / ROWS);
        if (soon != NULL) soon_fetch(soon);
        uint16_t *rows = to + (size_t)(from / 16) * (KEYS / STEP) * TILE + from % 16 * 32;
        UNROLL for (int row = 0; row < 4; row++, s += STEP)
        {
            vi p = powers_by_fours(vf_load(s) + POWERS_ONE, vf_load(s + 16) + POWERS_ONE);
            memcpy(rows + row * 32, &p, sizeof p);
            if (summed) x->sum[from + row] += powers_low(p) + powers_high(p);
        }
    }
}

/* sum += P of a query, of steps from .. to - 1. */
INLINE void add_row(desk *x, const uint16_t *p, size_t row, size_t from, size_t to)
{
    const uint16_t *at = p + row / 16 * (KEYS / STEP) * TILE + row % 16 * 32;
    vf low = vf_set(0.0f), high = low;
    for (size_t step = from; step < to; step++) {
        vi pairs;
        memcpy(&pairs, at + step * TILE, sizeof pairs);
        low += powers_low(pairs);
        high += powers_high(pairs);
    }
    x->sum[row] += low + high;
}

/* out += P V of a tile, all at once, and sum += P of those steps that make_bounded has made, from .. to - 1. Then P,
 * and not as much else beside it, is in L1 while V passes. */
static void add_all_values(plx_tiles *tiles, desk *x, const values *y, size_t from, size_t to)
{
    const size_t depth = y->depth, total = depth / 32 * (y->to - y->from);
    size_t done = 0, row = 0;
    square_place held = {NULL, 0};
    for (size_t c = 0; c < depth; c += 32) {
        const planes p = {{y->p, KEYS / STEP * TILE, TILE}, P_PLANE};
        const planes v = {{y->v + c / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth};
        for (size_t step = y->from; step < y->to; step++) {
            load_terms(tiles, &p, &v, step, 0);
            if (step == y->from)
                square_dot_first(tiles, &held, (square_place){y->out + c, depth}, true);
            else
                square_dot(tiles);
            for (const size_t end = ROWS * ++done / total; row < end; row++) add_row(x, y->p, row, from, to);
        }
    }
    square_end(tiles, &held);
}

/* By how much scores exceed the tops, lane by lane, at least 0. */
static void find_rise(const desk *x, const float *s, int64_t key, vf *rise)
{
    for (int row = 0; row < ROWS; row++)
        for (int side = 0; side < 2; side++) {
            vf more = vf_load(s + STEP * row + 16 * side) * x->scale - x->top[row];
            vi see = keys_seen(key + 16 * side, x->first[row], x->last[row]);
            rise[row] = vf_max(vf_select(see, more, vf_set(0.0f)), rise[row]);
        }
}

/* The first tops: the scores with the queries' own tokens, of those that are in this step of keys. */
static void own_tops(desk *x, const float *s, int64_t key)
{
    for (size_t row = 0; row < ROWS; row++) {
        int64_t own = x->last[row] - key;
        if (own >= 0 && own < STEP) x->top[row] = s[row * STEP + (size_t)own] * x->scale;
    }
    x->topped = true;
}

static void take_step(plx_tiles *tiles, desk *x, const float *s, uint16_t *p, int64_t key, ahead *next, soon *soon)
{
    const bool all = key >= x->all_begin && key + STEP <= x->all_end;
    if (all && x->bounded) {
        make_bounded(tiles, x, s, p, false, next, soon);
        return;
    }
    if (!x->topped) own_tops(x, s, key);
    if (all)
        make_probabilities(tiles, x, s, p, key, false, next, soon);
    else
        make_probabilities(tiles, x, s, p, key, true, next, soon);
}

/* All bits set in lanes whose sums are too large, or not numbers. */
INLINE vi beyond(vf sum) { return ~(vi)(sum < vf_set(MOST_SUM)); }

static bool any(vi mask)
{
    for (int i = 0; i < 16; i++)
        if (mask[i] != 0) return true;
    return false;
}

/* Tops rise to the largest scores for queries whose sums got too large; what
 * they had summed before shrinks. */
static void raise_tops(desk *x, const vf *before, const vf *by, size_t depth)
{
    for (int row = 0; row < ROWS; row++) {
        bool over = any(beyond(x->sum[row]));
        x->sum[row] = before[row];
        if (!over) continue;
        float rise = vf_top(by[row]), factor = exp2f(-rise);
        x->top[row] += rise;
        x->sum[row] *= factor;
        for (size_t c = 0; c < depth; c++) x->out[(size_t)row * depth + c] *= factor;
    }
}

#endif
