/* lanes.h - how the fast 2-simplicial kernels lay out their work.
 *
 * A task is a chunk of neighbouring queries of one row and key/value head. Its pairs (j,k) become matrix products by
 * making a lane of each triple (query, head of the group, k) and a row of each j:
 *     S^T[j, lane] = K[j, :] . X^T[:, lane]      X = q o k' * scale * log2(e), o the elementwise or the cross product
 * The triples of a chunk, in the order query, head, k, are cut into blocks of LANES; a segment is what one (query,
 * head) has in a block. Within a block all queries see a common range of j, the inner one; only the rows before and
 * after it need a mask. Elementwise work thus sits on the short axis, and nothing but row ends is wasted. */
#ifndef PLX_MIXERS_SIMPLICIAL_LANES_H
#define PLX_MIXERS_SIMPLICIAL_LANES_H

#include "mixers/simplicial/cpu/tile.h"
#include "mixers/simplicial/simplicial_ops.h"

#ifndef LANES
#define LANES 64
#endif
#ifndef WIDTH_STEP
#define WIDTH_STEP PLX_VW
#endif
#define ROWS_MOST 96
#define LOG2_E 1.4426950408889634
#define LN_2 0.69314718055994531

typedef struct chunk {
    const plx_simplicial_problem *p;
    size_t b, g;                  /* row, key/value head */
    size_t head, group;           /* the first of its query heads that are the chunk's, and how many */
    size_t query, query_end;      /* t of the row */
    int64_t base1, base2;         /* first token of the panels of k and v, of k2 and v2 */
    size_t count1, count2;        /* their tokens */
    size_t d, width;              /* components; rounded up to whole vectors (steps of tiles) */
    size_t row2;                  /* stride of the turned panels */
    float *k, *v;                 /* [count1, width], zero beyond d */
    float *k2, *v2;               /* [count2, width], with bias */
    float *k2_turned, *v2_turned; /* [d, row2] */
} chunk;

typedef struct segment {
    size_t query, head;
    size_t k; /* index in the panel of the first lane's token */
    size_t lane, count;
    bool first, last; /* begins, ends the k of its (query, head) */
} segment;

typedef struct block {
    size_t lanes, vectors;
    size_t segments;
    /* rows of j, as indices in the panel: begin .. end, of which inner .. inner_end are seen by every lane */
    size_t begin, inner, inner_end, end;
    segment segment[LANES];
    int32_t lane_begin[LANES], lane_end[LANES]; /* of each lane */
} block;

typedef struct cursor {
    size_t query, head, k;
} cursor; /* k counted from the query's first */

/* Rows of j in a tile: P, K and V of them and X^T stay in the first-level cache. */
static inline size_t lanes_rows_most(size_t d) { return d >= 128 ? ROWS_MOST / 2 : ROWS_MOST; }
static inline size_t lanes_round(size_t count) { return (count + PLX_VW - 1) / PLX_VW * PLX_VW; }
static inline size_t lanes_width(size_t d) { return (d + WIDTH_STEP - 1) / WIDTH_STEP * WIDTH_STEP; }
static inline size_t lanes_bytes(size_t bytes) { return (bytes + 63) / 64 * 64; }
/* Stride of turned panels of `count` tokens: room to read a vector beyond, and no multiple of a large power of two. */
static inline size_t lanes_stride(size_t count)
{
    size_t vectors = lanes_round(count) / PLX_VW + 1;
    return (vectors | 1) * PLX_VW;
}
/* Floats of X^T or Y^T of a block, with room for a vector more. */
static inline size_t lanes_turned_floats(size_t d) { return d * LANES + PLX_VW; }
/* Tokens that `queries` neighbouring queries see at most. */
static inline size_t lanes_reach(size_t window, size_t queries, size_t longest)
{
    return window == 0 || window > longest || window - 1 + queries > longest ? longest : window - 1 + queries;
}
/* Floats that the panels of a chunk take: of k2 and v2, of k and v. */
static inline size_t lanes_short_floats(const plx_simplicial_problem *p, size_t queries, size_t longest)
{
    size_t count2 = lanes_reach(p->window2, queries, longest);
    return 2 * (count2 * lanes_width(p->head_dim) + p->head_dim * lanes_stride(count2)) + PLX_VW;
}
static inline size_t lanes_long_floats(const plx_simplicial_problem *p, size_t queries, size_t longest)
{
    return 2 * lanes_reach(p->window1, queries, longest) * lanes_width(p->head_dim);
}

/* In det's cross product, component c of a x b is a[one] b[two] - a[two] b[one]. */
static inline void lanes_cross(size_t c, size_t *one, size_t *two)
{
    size_t first = c - c % 3;
    *one = first + (c + 1) % 3;
    *two = first + (c + 2) % 3;
}
/* Components that are in the logit. */
static inline size_t lanes_used(const plx_simplicial_problem *p)
{
    return p->form == PLX_SIMPLICIAL_DET ? p->head_dim / 3 * 3 : p->head_dim;
}

/* a . b of two rows, in double: eight sums side by side, then those in their order. */
static inline double lanes_dot(const float *a, const float *b, size_t d)
{
    double sums[8] = {0}, sum = 0;
    size_t whole = d / 8 * 8;
    for (size_t l = 0; l < whole; l += 8)
        for (size_t i = 0; i < 8; i++) sums[i] += (double)a[l + i] * (double)b[l + i];
    for (size_t l = whole; l < d; l++) sums[l - whole] += (double)a[l] * (double)b[l];
    for (size_t i = 0; i < 8; i++) sum += sums[i];
    return sum;
}

static inline const float *lanes_at(const chunk *c, const void *array, size_t query, size_t head)
{
    return (const float *)array + ((c->b * c->p->sequence.length + query) * c->p->heads + c->head + head) * c->d;
}

/* Asks for numbers that are read a little later: neighbouring tokens of a head lie far apart, so that the processor
 * does not guess where the next one is. */
static inline void lanes_ask(const float *from, size_t count)
{
    for (size_t l = 0; l < count; l += 64 / sizeof *from) __builtin_prefetch(from + l);
}
#define ASK_AHEAD 8 /* tokens */

/* rows[i][l] = number l of the panel's token i, with bias; 0 from d on. */
static inline void lanes_read_rows(const chunk *c, const plx_history *history, int64_t base, size_t count, float bias,
                                   float *rows)
{
    const float *from = (const float *)history->data + plx_simplicial_offset(history, c->b, base) + c->g * c->d;
    size_t d = c->d, width = c->width, whole = d / PLX_VW * PLX_VW;
    for (size_t i = 0; i < count; i++, from += history->width, rows += width) {
        if (i + ASK_AHEAD < count) lanes_ask(from + ASK_AHEAD * history->width, d);
        for (size_t l = 0; l < whole; l += PLX_VW) vf_store(rows + l, vf_load(from + l) + vf_set(bias));
        for (size_t l = whole; l < width; l++) rows[l] = l < d ? from[l] + bias : 0;
    }
}
/* turned[l][i] = rows[i][l]; 0 from token `count` on. */
static inline void lanes_turn(const chunk *c, const float *rows, size_t count, float *turned)
{
    size_t d = c->d, width = c->width, row2 = c->row2;
    for (size_t i = 0; i < row2; i += PLX_VW)
        for (size_t l = 0; l < d; l += PLX_VW) {
            vf square[PLX_VW];
            const float *from = rows + i * width + l;
            float *to = turned + l * row2 + i;
            UNROLL for (size_t n = 0; n < PLX_VW; n++) square[n] =
                i + n < count ? vf_load(from + n * width) : vf_set(0);
            transpose(square);
            if (l + PLX_VW <= d) {
                UNROLL for (size_t n = 0; n < PLX_VW; n++) vf_store(to + n * row2, square[n]);
            } else {
                for (size_t n = 0; n < d - l; n++) vf_store(to + n * row2, square[n]);
            }
        }
}

/* The chunk of queries query .. query_end - 1 of row b and key/value head g, without its panels; of its query heads the
 * part-th of `parts` nearly equal groups. */
static inline chunk lanes_chunk(const plx_simplicial_problem *p, size_t b, size_t g, size_t part, size_t parts,
                                size_t query, size_t query_end)
{
    size_t group = p->heads / p->kv_heads, head = group * part / parts;
    chunk c = {.p = p,
               .b = b,
               .g = g,
               .head = g * group + head,
               .group = group * (part + 1) / parts - head,
               .query = query,
               .query_end = query_end,
               .d = p->head_dim,
               .width = lanes_width(p->head_dim)};
    c.base1 = plx_simplicial_first(&p->sequence, b, query, p->window1);
    c.base2 = plx_simplicial_first(&p->sequence, b, query, p->window2);
    int64_t end = plx_simplicial_position(&p->sequence, b, query_end - 1) + 1;
    c.count1 = (size_t)(end - c.base1);
    c.count2 = (size_t)(end - c.base2);
    c.row2 = lanes_stride(c.count2);
    return c;
}

/* The tasks of a forward: chunks of queries, and parts of a key/value head's query heads. */
typedef struct lanes_division {
    size_t queries, chunks, parts, tasks;
} lanes_division;
#define QUERIES_MOST 64
#define QUERIES_LEAST 16
#define TASKS_WANTED 32
#define TASKS_LEAST 8

/* Larger chunks read their panels less often; enough tasks for many threads come first, by shape alone. Where even
 * chunks of a few queries are few, as in decoding, the heads are divided. */
static inline lanes_division lanes_divide(const plx_simplicial_problem *p)
{
    size_t rows = p->sequence.rows * p->kv_heads, group = p->heads / p->kv_heads;
    lanes_division to = {.queries = QUERIES_MOST};
    for (;; to.queries /= 2) {
        to.chunks = (p->sequence.length + to.queries - 1) / to.queries;
        if (rows * to.chunks >= TASKS_WANTED || to.queries == QUERIES_LEAST) break;
    }
    to.parts = (TASKS_LEAST + rows * to.chunks - 1) / (rows * to.chunks);
    if (to.parts > group) to.parts = group;
    to.tasks = rows * to.chunks * to.parts;
    return to;
}

/* The i-th chunk of a row to be done: the last one, the first, the last but one, and so on. Later queries see more
 * where windows are long, and threads that take runs of these get about the same work. */
static inline size_t lanes_order(size_t i, size_t chunks) { return i % 2 == 0 ? chunks - 1 - i / 2 : i / 2; }

static inline chunk lanes_divided(const plx_simplicial_problem *p, const lanes_division *to, size_t index)
{
    size_t part = index % to->parts, query = lanes_order(index / to->parts % to->chunks, to->chunks) * to->queries;
    size_t row = index / to->parts / to->chunks, length = p->sequence.length;
    return lanes_chunk(p, row / p->kv_heads, row % p->kv_heads, part, to->parts, query,
                       query + to->queries < length ? query + to->queries : length);
}

/* Tokens of the longest row, those before the batch included. */
static inline size_t lanes_longest(const plx_sequence *sequence)
{
    size_t longest = sequence->length;
    for (size_t b = 0; sequence->past != NULL && b < sequence->rows; b++)
        if ((size_t)sequence->past[b] + sequence->length > longest)
            longest = (size_t)sequence->past[b] + sequence->length;
    return longest;
}

/* Reads the panels of k2 and v2 into `memory`, the turned ones with a vector's margin before them, that of v2 only
 * where `turn_v`; returns what follows them. */
static inline float *lanes_read_short(chunk *c, bool turn_v, float *memory)
{
    const plx_simplicial_problem *p = c->p;
    c->k2 = memory;
    c->v2 = c->k2 + c->count2 * c->width;
    vf_store(c->v2 + c->count2 * c->width, vf_set(0));
    c->k2_turned = c->v2 + c->count2 * c->width + PLX_VW;
    c->v2_turned = c->k2_turned + c->d * c->row2;
    lanes_read_rows(c, &p->k2, c->base2, c->count2, (float)p->bias_k, c->k2);
    lanes_read_rows(c, &p->v2, c->base2, c->count2, (float)p->bias_v, c->v2);
    lanes_turn(c, c->k2, c->count2, c->k2_turned);
    if (turn_v) lanes_turn(c, c->v2, c->count2, c->v2_turned);
    return c->v2_turned + c->d * c->row2;
}

/* Reads the panels of k and v. */
static inline void lanes_read_long(chunk *c, float *memory)
{
    c->k = memory;
    c->v = c->k + c->count1 * c->width;
    lanes_read_rows(c, &c->p->k, c->base1, c->count1, 0, c->k);
    lanes_read_rows(c, &c->p->v, c->base1, c->count1, 0, c->v);
}

/* Fills the next block; false when the chunk has no more. A block ends early where the next query is of another
 * document or sees no row that the first one sees: the inner rows are never none. */
static inline bool lanes_next(const chunk *c, cursor *at, block *out)
{
    const plx_sequence *sequence = &c->p->sequence;
    if (at->query >= c->query_end) return false;
    size_t first_query = at->query, last_query = at->query;
    const int32_t *start = sequence->start + c->b * sequence->length;
    int64_t first_position = plx_simplicial_position(sequence, c->b, first_query);
    out->lanes = out->segments = 0;
    while (out->lanes < LANES && at->query < c->query_end) {
        size_t t = at->query;
        int64_t first1 = plx_simplicial_first(sequence, c->b, t, c->p->window1);
        int64_t first2 = plx_simplicial_first(sequence, c->b, t, c->p->window2);
        if (start[t] != start[first_query] || first1 > first_position) break;
        last_query = t;
        size_t position = (size_t)(plx_simplicial_position(sequence, c->b, t) - c->base1);
        size_t all = (size_t)(plx_simplicial_position(sequence, c->b, t) - first2) + 1, left = all - at->k;
        segment *s = &out->segment[out->segments++];
        *s = (segment){.query = t,
                       .head = at->head,
                       .k = (size_t)(first2 - c->base2) + at->k,
                       .lane = out->lanes,
                       .count = left < LANES - out->lanes ? left : LANES - out->lanes,
                       .first = at->k == 0};
        s->last = s->count == left;
        for (size_t i = s->lane; i < s->lane + s->count; i++) {
            out->lane_begin[i] = (int32_t)(first1 - c->base1);
            out->lane_end[i] = (int32_t)position + 1;
        }
        out->lanes += s->count;
        at->k = s->last ? 0 : at->k + s->count;
        if (s->last && ++at->head == c->group) {
            at->head = 0;
            at->query++;
        }
    }
    out->begin = (size_t)(plx_simplicial_first(sequence, c->b, first_query, c->p->window1) - c->base1);
    out->inner = (size_t)(plx_simplicial_first(sequence, c->b, last_query, c->p->window1) - c->base1);
    out->inner_end = (size_t)(first_position - c->base1) + 1;
    out->end = (size_t)(plx_simplicial_position(sequence, c->b, last_query) - c->base1) + 1;
    out->vectors = lanes_round(out->lanes) / PLX_VW;
    for (size_t i = out->lanes; i < LANES; i++) { /* lanes of nothing: X is zero there, and no mask */
        out->lane_begin[i] = 0;
        out->lane_end[i] = INT32_MAX;
    }
    return true;
}

/* Asks for what the next block, which has about as many segments as this one, reads of an array of [head_dim] numbers a
 * query and head. */
static inline void lanes_ask_next(const chunk *c, const block *at, cursor next, const void *array)
{
    for (size_t i = 0; i < at->segments && next.query < c->query_end; i++) {
        lanes_ask(lanes_at(c, array, next.query, next.head), c->d);
        if (++next.head < c->group) continue;
        next.head = 0;
        next.query++;
    }
}

/* The rows begin .. end of j in tiles, from row `origin` on to the end and then those before it. Returns how many rows
 * the tile after `done` rows has and sets its first; 0 at the end. */
static inline size_t lanes_rows(const block *at, size_t origin, size_t most, size_t done, size_t *first)
{
    size_t after = at->end - origin, before = origin - at->begin;
    size_t span = done < after ? after : before, in_span = done < after ? done : done - after;
    *first = (done < after ? origin : at->begin) + in_span;
    size_t left = span - in_span;
    if (left == 0) return 0;
    size_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* Whether rows first .. first + count - 1 need a mask. */
INLINE bool lanes_masked(const block *at, size_t first, size_t count)
{
    return first < at->inner || first + count > at->inner_end;
}

/* Bits set where row j is visible to the lanes from `lane` on. */
INLINE vi lanes_visible(const block *at, size_t lane, size_t j)
{
    vi begin, end, row = (int32_t)j - (vi){0};
    memcpy(&begin, at->lane_begin + lane, sizeof begin);
    memcpy(&end, at->lane_end + lane, sizeof end);
    return (vi)(row >= begin) & (vi)(row < end);
}

/* At most a vector's lanes of one segment: where their numbers are in a turned panel, and their (query, head)'s. */
typedef struct piece {
    const float *panel, *a;
    size_t lane;
} piece;

/* lanes_build_turned for `count` pieces, a constant where this is inlined. Component by component, since the lines of
 * the panel are near only once; each piece is stored as a whole vector and what is too much of it overwritten by the
 * next one. */
INLINE void lanes_build_pieces(const chunk *c, const size_t count, const piece *pieces, bool cross, float factor,
                               float *out)
{
    size_t used = cross ? c->d / 3 * 3 : c->d, row2 = c->row2;
    for (size_t l = 0; l < used; l++, out += LANES) {
        size_t one = l, two = l;
        if (cross) lanes_cross(l, &one, &two);
        UNROLL for (size_t i = 0; i < count; i++)
        {
            const piece *of = &pieces[i];
            vf x = vf_load(of->panel + one * row2) * (vf_set(of->a[two]) * vf_set(factor));
            if (cross) x -= vf_load(of->panel + two * row2) * (vf_set(of->a[one]) * vf_set(factor));
            vf_store(out + of->lane, x);
        }
    }
}

/* out^T[c][lane] = factor * (a o panel)[c], a being a vector of the (query, head); o is elementwise, or with `cross`
 * the cross product panel x a. out: lanes_turned_floats. */
static inline void lanes_build_turned(const chunk *c, const block *at, const void *array, const float *turned,
                                      bool cross, float factor, float *out)
{
    piece pieces[2 * LANES];
    size_t count = 0, whole = LANES / PLX_VW;
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        const float *a = lanes_at(c, array, s->query, s->head);
        for (size_t n = 0; n < s->count; n += PLX_VW) pieces[count++] = (piece){turned + s->k + n, a, s->lane + n};
    }
    if (cross)
        lanes_build_pieces(c, count, pieces, true, factor, out);
    else if (count == whole)
        lanes_build_pieces(c, whole, pieces, false, factor, out);
    else
        lanes_build_pieces(c, count, pieces, false, factor, out);
    for (size_t l = cross ? c->d / 3 * 3 : c->d; l < c->d; l++) memset(out + l * LANES, 0, LANES * sizeof *out);
    if (at->lanes % PLX_VW != 0) /* the lanes of nothing in the last vector */
        for (size_t l = 0; l < c->d; l++)
            for (size_t n = at->lanes; n < at->vectors * PLX_VW; n++) out[l * LANES + n] = 0;
}

#endif
