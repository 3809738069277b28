/* stream.h - all rows of a pair of lane tiles where operands are one bf16 number and a bound of the logits is known: m
 * is 0. Beside the products for a square of logits stands P of the square before, and that of a tile's last square
 * beside its first products with V. What the products and the vector unit both work on stays in the first-level cache:
 * one square of logits, P of a tile, X and O2 of the pair. */
#ifndef PLX_MIXERS_SIMPLICIAL_STREAM_H
#define PLX_MIXERS_SIMPLICIAL_STREAM_H

#include "mixers/simplicial/amx/forward.h"

/* Lanes of a pair of tiles in work: P's sums, of even and of odd rows. */
typedef struct pair_work {
    const block *at;
    size_t lane;
    const float *s;
    vf even[2], odd[2];
} pair_work;

/* P of `count` pairs of rows of the unit that begins at `row`: 4, 8 or 16, from a multiple of that on. */
INLINE void make_pairs(pair_work *work, const bool masked, size_t row, uint32_t *p, size_t from, const size_t count)
{
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        const float *first = square_rows(work->s, from, n);
        lane_range range = range_of(work->at, work->lane + n * 16);
        vi j = (vi){0} + (int32_t)(row + 2 * from);
        vf even = work->even[n], odd = work->odd[n];
        UNROLL for (size_t i = 0; i < count; i++)
        {
            const float *s = first + i / 8 * 2 * TILE + i % 8 * 32;
            vf y0 = vf_load(s), y1 = vf_load(s + 16);
            if (masked) {
                y0 = vf_select((vi)(j >= range.begin) & (vi)(j < range.end), y0, vf_set(-POWERS_ONE));
                j += 1;
                y1 = vf_select((vi)(j >= range.begin) & (vi)(j < range.end), y1, vf_set(-POWERS_ONE));
                j += 1;
            }
            vi pairs = powers_paired_near(y0, y1);
            even += powers_low(pairs);
            odd += powers_high(pairs);
            memcpy(p + n * TILE + (from + i) * 16, &pairs, 64);
        }
        work->even[n] = even;
        work->odd[n] = odd;
    }
}
INLINE void make_some(pair_work *work, size_t row, uint32_t *p, size_t from, const size_t count)
{
    if (lanes_masked(work->at, row, UNIT))
        make_pairs(work, true, row, p, from, count);
    else
        make_pairs(work, false, row, p, from, count);
}

/* Units of a pair from which on squares are held: of fewer, P waits for stores sooner than they would be in the way. */
#define HOLD_FROM 5

/* Units first .. first + units - 1 of lane pair n. P of a square stands beside the first `parts` of `steps`. */
INLINE void do_units(pair_work *work, const size_t parts, size_t steps, const uint32_t *x, size_t first, size_t units,
                     bool add, bool hold, sums_square *held, memory *m)
{
    plx_tiles *tiles = &m->tiles;
    const size_t step = STEP_WORDS(1), half = UNIT / 4, some = UNIT / 2 / parts;
    const sums_square logits = square_at(m->s, 0);
    for (size_t u = 0; u < units; u++) {
        const uint32_t *k = m->k + (first + u) * steps * step;
        UNROLL for (size_t c = 0; c < parts; c++)
        {
            if (c == 0)
                multiply_first(tiles, 1, held, logits, false, k, x);
            else
                multiply(tiles, PART_LARGE, k + c * step, x + c * step);
            if (u > 0) make_some(work, (first + u - 1) * UNIT, m->p + (u - 1) * step, c * some, some);
        }
        for (size_t c = parts; c < steps; c++) multiply(tiles, PART_LARGE, k + c * step, x + c * step);
        if (!hold) square_end(tiles, held);
    }
    size_t last = units - 1, made = 0;
    if (last == 0) {
        square_end(tiles, held);
        for (; made < UNIT / 2; made += half) make_some(work, (first + last) * UNIT, m->p, made, half);
    }
    for (size_t c = 0; c < steps; c++) {
        sums_square o2 = square_at(m->o2, c);
        for (size_t u = 0; u < units; u++) {
            const uint32_t *v = m->v + ((first + u) * steps + c) * step, *p = m->p + u * step;
            for (; u > 0 && u == last && made < UNIT / 2; made += half)
                make_some(work, (first + last) * UNIT, m->p + last * step, made, half);
            if (u == 0)
                multiply_first(tiles, 1, held, o2, add, v, p);
            else
                multiply(tiles, PART_LARGE, v, p);
            if (made < UNIT / 2) {
                make_some(work, (first + last) * UNIT, m->p + last * step, made, half);
                made += half;
            }
        }
        if (!hold) square_end(tiles, held);
    }
}

INLINE void do_pair(const size_t parts, size_t steps, const size_t most, size_t n, const uint32_t *x, memory *m)
{
    const block *at = &m->block;
    size_t begin = at->begin / UNIT, units = units_of(at->end) - begin, tiles = (units + most - 1) / most;
    pair_work work = {.at = at, .lane = n * 32, .s = m->s};
    sums_square held = {0};
    for (size_t i = 0; i < tiles; i++) {
        size_t first = begin + units * i / tiles, end = begin + units * (i + 1) / tiles;
        do_units(&work, parts, steps, x, first, end - first, i > 0, units >= HOLD_FROM, &held, m);
    }
    square_end(&m->tiles, &held);
    for (size_t i = 0; i < 2; i++) vf_store(m->total + n * 32 + i * 16, work.even[i] + work.odd[i]);
}
/* Heads of 64 and of 128 components in straight lines. */
#define NOINLINE static __attribute__((noinline)) void
NOINLINE do_pair_of_2(size_t n, const uint32_t *x, memory *m) { do_pair(2, 2, UNITS(1) / 2, n, x, m); }
NOINLINE do_pair_of_4(size_t n, const uint32_t *x, memory *m) { do_pair(4, 4, UNITS(1), n, x, m); }
NOINLINE do_pair_of_any(size_t steps, size_t n, const uint32_t *x, memory *m) { do_pair(1, steps, UNITS(1), n, x, m); }
#undef NOINLINE

/* The sums of pair n, and its O2 as if it were the only pair. x: its operand. */
static inline void do_bounded(size_t steps, size_t n, const uint32_t *x, memory *m)
{
    if (steps == 2)
        do_pair_of_2(n, x, m);
    else if (steps == 4)
        do_pair_of_4(n, x, m);
    else
        do_pair_of_any(steps, n, x, m);
}

#endif
