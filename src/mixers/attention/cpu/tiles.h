/* tiles.h - what the fast forward and backward of attention share.
 *
 * A block is up to 192 queries of one row and one key/value head: positions, and within a position the heads of the
 * group. It is cut into panels whose queries lie in the lanes of vectors; the keys of a tile lie one below the other:
 *
 *                 a panel of queries
 *             +----+----+----+----+
 *      keys   | P = 2^(K Q^T - m) |      P[key][lane]: the softmax runs down the columns, nothing is horizontal
 *             +----+----+----+----+
 *
 * K and V are copied, once a head (forward) or block (backward), so that their rows lie side by side: in place, G heads
 * apart, they would fall into the same few lines of the first cache. */
#ifndef PLX_MIXERS_ATTENTION_CPU_TILES_H
#define PLX_MIXERS_ATTENTION_CPU_TILES_H

#include "mixers/attention/attention_ops.h"
#include "mixers/attention/cpu/product.h"

#define QUERIES 192 /* of a block */
#define PANELS (QUERIES / PANEL)
#define KEYS 96 /* of a tile */
#define LOG2_E 1.4426950408889634

/* ---- between rows and columns ---- */

/* columns[c][lane] = scale * row of lane [c]; row[lane] is at x + at[lane]. c_row: floats from column to column. */
static void rows_to_columns(const float *x, const size_t *at, size_t d, size_t vectors, float scale, float *columns)
{
    vf square[PLX_VW];
    for (size_t v = 0; v < vectors; v++)
        for (size_t c = 0; c < d; c += PLX_VW) {
            UNROLL for (int i = 0; i < PLX_VW; i++) square[i] = vf_next(x + at[v * PLX_VW + i] + c, d - c) * scale;
            transpose(square);
            UNROLL for (int i = 0; i < PLX_VW; i++) if (c + i < d)
                vf_store(columns + (c + i) * PANEL + v * PLX_VW, square[i]);
        }
}
/* row of lane [c] = columns[c][lane] * factor[lane], for the first `count` lanes */
static void columns_to_rows(const float *columns, const float *factor, size_t d, size_t count, float *x,
                            const size_t *at)
{
    vf square[PLX_VW];
    for (size_t lane = 0; lane < count; lane += PLX_VW)
        for (size_t c = 0; c < d; c += PLX_VW) {
            vf share = vf_load(factor + lane);
            UNROLL for (int i = 0; i < PLX_VW; i++) square[i] =
                c + i < d ? vf_load(columns + (c + i) * PANEL + lane) * share : vf_set(0.0f);
            transpose(square);
            for (size_t i = 0; i < PLX_VW && lane + i < count; i++) vf_put(x + at[lane + i] + c, square[i], d - c);
        }
}

/* ---- panels and blocks of queries ---- */

typedef struct panel {
    size_t count, vectors; /* queries, vectors that hold them; lanes of those beyond repeat the last query */
    size_t query[PANEL];   /* index of (b,t,h) */
    sight sight;
    int64_t low[TILE_VECTORS], high[TILE_VECTORS]; /* keys that any lane of the vector sees: low .. high - 1 */
    int64_t begin, end;                /* keys that any lane sees: begin .. end - 1 */
    int64_t all_begin, all_end;        /* keys that every lane sees, if all_begin < all_end */
} panel;

typedef struct block {
    size_t panels;
    panel panel[PANELS];
    int64_t begin, end; /* keys that any query sees */
} block;

/* Queries from .. from + PANEL - 1, or up to `to`, of the T * group of row b and head g. */
static void panel_set(panel *q, const plx_sequence *sequence, size_t heads, size_t kv_heads, size_t window, size_t b,
                      size_t g, size_t from, size_t to)
{
    const size_t T = sequence->length, group = heads / kv_heads;
    q->count = to - from < PANEL ? to - from : PANEL;
    q->vectors = (q->count + PLX_VW - 1) / PLX_VW;
    q->begin = q->all_end = INT32_MAX;
    q->end = q->all_begin = 0;
    for (size_t lane = 0; lane < q->vectors * PLX_VW; lane++) {
        size_t number = from + (lane < q->count ? lane : q->count - 1), t = number / group;
        int32_t first = plx_attention_first(sequence, b, t, window);
        int32_t last = (sequence->past != NULL ? sequence->past[b] : 0) + (int32_t)t;
        q->query[lane] = (b * T + t) * heads + g * group + number % group;
        q->sight.first[lane] = first;
        q->sight.last[lane] = last;
        size_t v = lane / PLX_VW;
        if (lane % PLX_VW == 0 || first < q->low[v]) q->low[v] = first;
        if (lane % PLX_VW == 0 || last + 1 > q->high[v]) q->high[v] = last + 1;
        if (first < q->begin) q->begin = first;
        if (first > q->all_begin) q->all_begin = first;
        if (last + 1 > q->end) q->end = last + 1;
        if (last + 1 < q->all_end) q->all_end = last + 1;
    }
}

static void block_set(block *block, const plx_sequence *sequence, size_t heads, size_t kv_heads, size_t window,
                      size_t b, size_t g, size_t from)
{
    size_t all = sequence->length * (heads / kv_heads), to = all - from < QUERIES ? all : from + QUERIES;
    block->panels = 0;
    block->begin = INT32_MAX;
    block->end = 0;
    for (; from < to; from += PANEL) {
        panel *q = &block->panel[block->panels++];
        panel_set(q, sequence, heads, kv_heads, window, b, g, from, to);
        if (q->begin < block->begin) block->begin = q->begin;
        if (q->end > block->end) block->end = q->end;
    }
}

/* columns of the panel's queries, see rows_to_columns */
static void panel_columns(const panel *q, const float *x, size_t d, float scale, float *columns)
{
    size_t at[PANEL];
    for (size_t lane = 0; lane < q->vectors * PLX_VW; lane++) at[lane] = q->query[lane] * d;
    rows_to_columns(x, at, d, q->vectors, scale, columns);
}

/* ---- the part of a tile that a panel sees ---- */

/* Keys key .. key + keys - 1 and the vectors from `lane` on: all of whose lanes see all keys, or not. */
typedef struct part {
    int64_t key;
    size_t keys, lane, vectors;
    bool all;
} part;

/* Keys begin .. end - 1: all lanes see all_begin .. all_end - 1, which is the first part, if there are any; what lies
 * before and after is in parts of single vectors, each with the keys that any of its lanes sees. */
typedef struct view {
    int64_t begin, all_begin, all_end, end;
    part parts[1 + 2 * TILE_VECTORS];
    size_t count;
} view;

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t sooner(int64_t a, int64_t b) { return a < b ? a : b; }

static void add_parts(view *view, const panel *q, int64_t begin, int64_t end, int64_t step)
{
    for (size_t v = 0; v < q->vectors && begin < end; v++) {
        int64_t low = later(q->low[v], begin), high = sooner(q->high[v], end);
        if (low >= high) continue;
        low -= (low - view->begin) % step;
        high = sooner(high + (step - (high - view->begin) % step) % step, end);
        view->parts[view->count++] = (part){low, (size_t)(high - low), v * PLX_VW, 1, false};
    }
}

/* What the panel sees of keys begin .. end - 1; nothing: count is 0. Parts begin and end at multiples of `step` keys
 * from view->begin on, or at the end. */
static void view_set(view *view, const panel *q, int64_t begin, int64_t end, int64_t step)
{
    view->begin = later(begin, q->begin);
    view->end = sooner(end, q->end);
    view->count = 0;
    if (view->begin >= view->end) return;
    int64_t from = later(q->all_begin, view->begin), to = sooner(q->all_end, view->end);
    from += (step - (from - view->begin) % step) % step;
    if (to < view->end) to -= (to - view->begin) % step;
    if (to <= from) from = to = view->end;
    view->all_begin = from;
    view->all_end = to;
    if (from < to) view->parts[view->count++] = (part){from, (size_t)(to - from), 0, q->vectors, true};
    add_parts(view, q, view->begin, from, step);
    add_parts(view, q, to, view->end, step);
}

/* How far apart copied rows of d numbers lie: an odd number of cache lines, so that a column of them, which products
 * with K^T and V^T read downwards, is spread over all sets of the first cache. */
static size_t copy_stride(size_t d) { return ((d + 15) / 16 | 1) * 16; }

#endif
