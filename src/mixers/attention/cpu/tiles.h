/* tiles.h - what the fast forward and backward of attention share.
 *
 * A block is up to 64 queries of one row and one key/value head: positions, and within a position the heads of the
 * group. The block's queries lie in the lanes of vectors, the keys of a tile of 64 one below the other:
 *
 *                 64 queries (lanes)
 *             +----+----+----+----+
 *     64 keys | S = K Q^T, then P |      S[key][lane]: K is read where it lies, one number broadcast at a time, so
 *             |                   |      neither K nor V is ever packed; the softmax runs down the columns
 *             +----+----+----+----+
 *
 * Tiles that only some queries see are worked off in spans: 16 keys and those vectors of queries that see any. */
#ifndef PLX_MIXERS_ATTENTION_CPU_TILES_H
#define PLX_MIXERS_ATTENTION_CPU_TILES_H

#include "kernels/cpu/vec.h"
#include "mixers/attention/attention_ops.h"

#define LANES 64 /* queries of a block */
#define KEYS 64  /* keys of a tile */
#define SPAN 16  /* keys of a span */
#define VECTORS (LANES / PLX_VW)
#define LOG2_E 1.4426950408889634

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---- products of small blocks that lie in cache ---- */

/* c[rows, columns] (+)= sum over depth of a(row, step) b[step, columns]; a(i, s) is at a + i * a_row + s * a_step. */
typedef struct product {
    const float *a;
    size_t a_row, a_step;
    const float *b; /* readable up to a multiple of the vector width */
    size_t b_row;
    float *c;
    size_t c_row, rows, columns, depth;
    bool add;
} product;

#define REGISTERS (PLX_VW == 16 ? 16 : 8) /* sums held at a time: height x width of a tile */

/* height x width vectors of the product, held in registers; both are constants wherever this is inlined. */
static inline __attribute__((always_inline)) void product_tile(const product *p, const int height, const int width,
                                                               const float *a, const float *b, float *c, size_t c_row)
{
    const size_t a_row = p->a_row, a_step = p->a_step, b_row = p->b_row;
    vf sum[REGISTERS], right[4]; /* no array of height x width: the compiler would leave that in memory */
    UNROLL for (int i = 0; i < height; i++)
        UNROLL for (int j = 0; j < width; j++)
            sum[i * width + j] = p->add ? vf_load(c + (size_t)i * c_row + j * PLX_VW) : vf_set(0.0f);
    for (size_t s = 0; s < p->depth; s++, a += a_step, b += b_row) {
        UNROLL for (int j = 0; j < width; j++) right[j] = vf_load(b + j * PLX_VW);
        UNROLL for (int i = 0; i < height; i++) {
            vf left = vf_set(a[(size_t)i * a_row]);
            UNROLL for (int j = 0; j < width; j++) sum[i * width + j] += left * right[j];
        }
    }
    UNROLL for (int i = 0; i < height; i++)
        UNROLL for (int j = 0; j < width; j++) vf_store(c + (size_t)i * c_row + j * PLX_VW, sum[i * width + j]);
}

/* All rows of `width` vectors of columns. */
static inline __attribute__((always_inline)) void product_columns(const product *p, const int height, const int width,
                                                                  size_t column)
{
    size_t i = 0;
    for (; i + (size_t)height <= p->rows; i += (size_t)height)
        product_tile(p, height, width, p->a + i * p->a_row, p->b + column, p->c + i * p->c_row + column, p->c_row);
    for (; i < p->rows; i++)
        product_tile(p, 1, width, p->a + i * p->a_row, p->b + column, p->c + i * p->c_row + column, p->c_row);
}

static void multiply(const product *p)
{
    size_t j = 0;
#if PLX_VW == 16
    for (; j + 4 * PLX_VW <= p->columns; j += 4 * PLX_VW) product_columns(p, 4, 4, j);
    for (; j + 2 * PLX_VW <= p->columns; j += 2 * PLX_VW) product_columns(p, 8, 2, j);
    for (; j + PLX_VW <= p->columns; j += PLX_VW) product_columns(p, 16, 1, j);
#else
    for (; j + 2 * PLX_VW <= p->columns; j += 2 * PLX_VW) product_columns(p, 4, 2, j);
    for (; j + PLX_VW <= p->columns; j += PLX_VW) product_columns(p, 8, 1, j);
#endif
    if (j == p->columns) return;
    for (size_t i = 0; i < p->rows; i++) { /* less than a vector: c ends there, b does not */
        float last[PLX_VW];
        float *c = p->c + i * p->c_row + j;
        for (size_t l = 0; l < PLX_VW; l++) last[l] = j + l < p->columns ? c[l] : 0.0f;
        product_tile(p, 1, 1, p->a + i * p->a_row, p->b + j, last, 0);
        for (size_t l = 0; j + l < p->columns; l++) c[l] = last[l];
    }
}

/* ---- a block of queries ---- */

typedef struct block {
    size_t count;                 /* queries, <= LANES; lanes beyond repeat the last one's bounds */
    size_t vectors;               /* that hold queries */
    size_t query[LANES];          /* index of (b,t,h) */
    int32_t first[LANES], last[LANES]; /* keys that each lane sees */
    int32_t vector_first[VECTORS], vector_last[VECTORS]; /* keys that any lane of the vector sees */
    int64_t begin, end;           /* keys that any lane sees: begin .. end - 1 */
    int64_t all_begin, all_end;   /* keys that every lane sees */
} block;

/* Queries number from .. from + LANES - 1 of the T * group of row b and head g. */
static void block_set(block *q, const plx_sequence *sequence, size_t heads, size_t kv_heads, size_t window, size_t b,
                      size_t g, size_t from)
{
    const size_t T = sequence->length, group = heads / kv_heads;
    q->count = T * group - from < LANES ? T * group - from : LANES;
    q->vectors = (q->count + PLX_VW - 1) / PLX_VW;
    q->begin = q->all_end = INT32_MAX;
    q->end = q->all_begin = 0;
    for (size_t lane = 0; lane < q->vectors * PLX_VW; lane++) {
        size_t number = from + (lane < q->count ? lane : q->count - 1), t = number / group;
        int32_t first = plx_attention_first(sequence, b, t, window);
        int32_t last = (sequence->past != NULL ? sequence->past[b] : 0) + (int32_t)t;
        size_t v = lane / PLX_VW;
        q->query[lane] = (b * T + t) * heads + g * group + number % group;
        q->first[lane] = first;
        q->last[lane] = last;
        if (lane % PLX_VW == 0 || first < q->vector_first[v]) q->vector_first[v] = first;
        if (lane % PLX_VW == 0 || last > q->vector_last[v]) q->vector_last[v] = last;
        if (first < q->begin) q->begin = first;
        if (first > q->all_begin) q->all_begin = first;
        if (last + 1 > q->end) q->end = last + 1;
        if (last + 1 < q->all_end) q->all_end = last + 1;
    }
}

/* columns[c][lane] = scale * x[query of lane][c]; lanes without a query get 0. */
static void block_columns(const block *q, const float *x, size_t d, float scale, float *columns)
{
    size_t lanes = q->vectors * PLX_VW;
    for (size_t lane = 0; lane < lanes; lane++) {
        const float *row = x + q->query[lane] * d;
        float factor = lane < q->count ? scale : 0.0f;
        for (size_t c = 0; c < d; c++) columns[c * LANES + lane] = factor * row[c];
    }
}

/* ---- a tile of keys ---- */

typedef struct span {
    size_t key, keys;         /* within the tile */
    size_t column, columns;   /* lanes that may see them, in whole vectors */
} span;

typedef struct tile {
    int64_t key;              /* number of the first */
    size_t keys;
    bool partial;             /* some lane does not see some key */
    span spans[KEYS / SPAN];
    size_t span_count;
} tile;

static void tile_set(tile *t, const block *q, int64_t key)
{
    t->key = key;
    t->keys = q->end - key < KEYS ? (size_t)(q->end - key) : KEYS;
    t->partial = key < q->all_begin || key + (int64_t)t->keys > q->all_end;
    t->span_count = 0;
    if (!t->partial) {
        t->spans[t->span_count++] = (span){0, t->keys, 0, q->vectors * PLX_VW};
        return;
    }
    for (size_t k = 0; k < t->keys; k += SPAN) {
        size_t keys = t->keys - k < SPAN ? t->keys - k : SPAN, from = 0, to = q->vectors;
        int64_t low = key + (int64_t)k, high = low + (int64_t)keys - 1;
        while (from < to && (q->vector_first[from] > high || q->vector_last[from] < low)) from++;
        while (to > from && (q->vector_first[to - 1] > high || q->vector_last[to - 1] < low)) to--;
        if (from < to) t->spans[t->span_count++] = (span){k, keys, from * PLX_VW, (to - from) * PLX_VW};
    }
}

/* All bits set in the lanes of vector v that see the key. */
static inline vi lanes_see(const block *q, size_t v, int32_t key)
{
    vi first, last, number = key - (vi){0};
    memcpy(&first, q->first + v * PLX_VW, sizeof first);
    memcpy(&last, q->last + v * PLX_VW, sizeof last);
    return (vi)(first <= number) & (vi)(number <= last);
}

#endif
