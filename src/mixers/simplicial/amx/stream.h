/* stream.h - all rows of a block where operands are one bf16 number and norms bound the logits: m is 0, so that no
 * square of logits waits for another. Products for the logits of a pair of lane tiles alternate with those of the pair
 * before with V, and P is made beside both. */
#ifndef PLX_MIXERS_SIMPLICIAL_STREAM_H
#define PLX_MIXERS_SIMPLICIAL_STREAM_H

#include "mixers/simplicial/amx/forward.h"

/* A square of logits that P is to be made of. */
typedef struct logits {
    const float *s;
    uint32_t *p;
    size_t lane, row; /* its first */
    bool masked;
} logits;

/* The squares of a block in the order [tile of rows][lane pair][unit]: `scored` of them have their logits, `made` their
 * P, and `rows` pairs of rows of the next one. */
typedef struct stream {
    memory *m;
    logits queue[SQUARES]; /* square i's is i % SQUARES */
    size_t scored, made, rows;
    vf total[2];
} stream;

INLINE void make_pairs(const bool masked, const logits *of, const block *at, size_t i, vf total[2])
{
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        const float *s = square_rows(of->s, i, n);
        vf y0 = vf_load(s), y1 = vf_load(s + 16);
        if (masked) {
            lane_range range = range_of(at, of->lane + n * 16);
            y0 = row_visible(&range, of->row + 2 * i, y0, -POWERS_ONE);
            y1 = row_visible(&range, of->row + 2 * i + 1, y1, -POWERS_ONE);
        }
        vi pairs = powers_paired_near(y0, y1);
        total[n] = pairs_add(total[n], pairs);
        memcpy(of->p + n * TILE + i * 16, &pairs, 64);
    }
}
/* P of the next square's next `rows` pairs of rows. */
INLINE void advance(stream *st, size_t rows)
{
    const logits *of = &st->queue[st->made % SQUARES];
    const block *at = &st->m->block;
    size_t end = st->rows + rows < UNIT / 2 ? st->rows + rows : UNIT / 2;
    if (of->masked)
        for (; st->rows < end; st->rows++) make_pairs(true, of, at, st->rows, st->total);
    else
        for (; st->rows < end; st->rows++) make_pairs(false, of, at, st->rows, st->total);
    if (end < UNIT / 2) return;
    float *total = st->m->total + of->lane;
    for (size_t n = 0; n < 2; n++) {
        vf_store(total + n * 16, vf_load(total + n * 16) + st->total[n]);
        st->total[n] = vf_set(0);
    }
    st->rows = 0;
    st->made++;
}
/* The same beside a step of products: of a square whose sums have had time to leave the tiles. */
INLINE void advance_beside(stream *st, size_t rows)
{
    if (st->scored - st->made > 0) advance(st, rows);
}

/* The units of a lane pair in one tile of rows. */
typedef struct group {
    size_t unit, units, pair;
    bool first; /* tile of the lane pair */
    uint32_t *p;
    size_t before; /* squares of earlier groups */
} group;

/* rows: pairs of rows of P beside a step of products. */
INLINE void score_unit(stream *st, const group *g, size_t u, size_t steps, size_t rows)
{
    memory *m = st->m;
    const uint32_t *k = m->k + (g->unit + u) * steps * STEP_WORDS(1), *x = x_of(1, m, steps, g->pair);
    while (st->scored - st->made == SQUARES) advance(st, UNIT / 2);
    square_begin(&m->tiles);
    for (size_t step = 0; step < steps; step++) {
        multiply_lanes(&m->tiles, k + step * STEP_WORDS(1), x + step * LANES_STEP_WORDS);
        advance_beside(st, rows);
    }
    size_t index = st->scored++ % SQUARES, row = (g->unit + u) * UNIT;
    square_end(&m->tiles, square_at(m->s, index));
    st->queue[index] = (logits){m->s + index * SQUARE, g->p + u * STEP_WORDS(1), g->pair * 32, row,
                                lanes_masked(&m->block, row, UNIT)};
}
/* 32 components of O2. */
INLINE void meet_v(stream *st, const group *g, size_t step, size_t steps, size_t rows)
{
    memory *m = st->m;
    const uint32_t *v = m->v + (g->unit * steps + step) * STEP_WORDS(1);
    sums_square to = square_at(m->o2, g->pair * steps + step);
    if (g->first)
        square_begin(&m->tiles);
    else
        square_load(&m->tiles, to);
    for (size_t u = 0; u < g->units; u++) {
        while (st->made <= g->before + u) advance(st, UNIT / 2);
        multiply(&m->tiles, PART_LARGE, v + u * steps * STEP_WORDS(1), g->p + u * STEP_WORDS(1));
        advance_beside(st, rows);
    }
    square_end(&m->tiles, to);
}

/* All rows of the block. Between the squares of a group stand the products with V of the group before. */
static void do_bounded(size_t steps, memory *m)
{
    const block *at = &m->block;
    size_t first = at->begin / UNIT, units = units_of(at->end) - first, pairs = pairs_of(at);
    size_t tiles = (units + UNITS - 1) / UNITS, most = (units + tiles - 1) / tiles,
           rows = (UNIT / 4 + steps - 1) / steps;
    stream st = {.m = m};
    group before = {0};
    for (size_t i = 0; i < LANES; i++) m->start[i] = m->total[i] = 0;
    for (size_t i = 0; i <= tiles * pairs; i++) {
        size_t unit = i / pairs * most, step = 0;
        group now = {.unit = first + unit,
                     .units = i == tiles * pairs ? 0 : (units - unit < most ? units - unit : most),
                     .pair = i % pairs,
                     .first = unit == 0,
                     .p = m->p + i % 2 * UNITS * STEP_WORDS(1),
                     .before = st.scored};
        for (size_t u = 0; u < now.units; u++) {
            score_unit(&st, &now, u, steps, rows);
            for (; i > 0 && step < steps && step * now.units < u * steps; step++)
                meet_v(&st, &before, step, steps, rows);
        }
        for (; i > 0 && step < steps; step++) meet_v(&st, &before, step, steps, rows);
        before = now;
    }
}

#endif
