/* sums.h - the sums that backward makes over queries, and how they are shared out to threads.
 *
 * Tasks are fixed chunks of queries. Each has sums of its own for dk, dv (its queries and w1 before them) and dk', dv'
 * (w2 before them), which are added in the order of the chunks: the answer is the same for any number of threads. The
 * number of chunks is bounded, so memory stays linear in the length. */
#ifndef PLX_MIXERS_SIMPLICIAL_SUMS_H
#define PLX_MIXERS_SIMPLICIAL_SUMS_H

#include "mixers/simplicial/cpu/lanes.h"

#define CHUNKS_WANTED 64
#define CHUNK_LEAST 32
#define CHUNK_LARGE 64   /* queries, where that still leaves */
#define CHUNKS_ENOUGH 16 /* chunks: private sums of fewer chunks are less memory to go through */
#define PARTIAL_MOST ((size_t)16 << 20) /* floats of private sums, above which fewer chunks are made */

/* A task's private sums, in scratch shared by all threads. */
typedef struct partial {
    int64_t base1, base2;
    size_t count1, count2;
    float *dk, *dv;   /* [count1, width] */
    float *dk2, *dv2; /* [count2, width] */
    size_t reached1, reached2; /* tokens whose sums are begun, the others' are not 0 yet */
} partial;

typedef struct chunk_sums {
    const plx_simplicial_backward_args *args;
    size_t queries, chunks; /* of a chunk, of a row */
    size_t tasks;           /* chunks of all rows and key/value heads */
    size_t partial_floats;
    partial *partials; /* [tasks] */
    float *sums;
} chunk_sums;

static inline void add_row(float *restrict sum, const float *restrict row, size_t d)
{
    for (size_t l = 0; l < d; l++) sum[l] += row[l];
}

/* Adds the private sums of one chunk's own tokens, chunks in their order; those of later queries reach back to them. */
static inline void add_chunk(void *argument, size_t index, int thread)
{
    (void)thread;
    const chunk_sums *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    size_t d = p->head_dim, width = lanes_width(d), row = index / j->chunks, own = index % j->chunks;
    size_t end = (own + 1) * j->queries < p->sequence.length ? (own + 1) * j->queries : p->sequence.length;
    for (size_t t = own * j->queries; t < end; t++) {
        size_t at = (row / p->kv_heads * p->sequence.length + t) * p->kv_heads * d + row % p->kv_heads * d;
        float *dk = (float *)j->args->dk + at, *dv = (float *)j->args->dv + at;
        float *dk2 = (float *)j->args->dk2 + at, *dv2 = (float *)j->args->dv2 + at;
        for (size_t l = 0; l < d; l++) dk[l] = dv[l] = dk2[l] = dv2[l] = 0;
        for (size_t other = own; other < j->chunks; other++) {
            const partial *s = &j->partials[row * j->chunks + other];
            bool seen1 = (int64_t)t >= s->base1, seen2 = (int64_t)t >= s->base2;
            if (!seen1 && !seen2) break; /* what later chunks see begins later still */
            size_t i1 = seen1 ? (size_t)((int64_t)t - s->base1) : 0, i2 = seen2 ? (size_t)((int64_t)t - s->base2) : 0;
            if (seen1) add_row(dk, s->dk + i1 * width, d);
            if (seen1) add_row(dv, s->dv + i1 * width, d);
            if (seen2) add_row(dk2, s->dk2 + i2 * width, d);
            if (seen2) add_row(dv2, s->dv2 + i2 * width, d);
        }
    }
}

/* Floats of private sums of a chunk of `queries`; `more`: tokens beyond those that it sees, to which sums are rounded.
 */
static inline size_t partial_floats(const plx_simplicial_problem *p, size_t queries, size_t more)
{
    size_t length = p->sequence.length;
    return 2 * (lanes_reach(p->window1, queries, length) + more + lanes_reach(p->window2, queries, length)) *
           lanes_width(p->head_dim);
}

/* How many chunks, by shape alone. */
static inline void sums_divide(chunk_sums *j, const plx_simplicial_backward_args *args, size_t more)
{
    const plx_simplicial_problem *p = &args->problem;
    size_t length = p->sequence.length, rows = p->sequence.rows * p->kv_heads;
    size_t wanted = (CHUNKS_WANTED + rows - 1) / rows;
    j->args = args;
    for (;; wanted = (wanted + 1) / 2) {
        j->queries = (length + wanted - 1) / wanted;
        size_t least = rows * ((length + CHUNK_LARGE - 1) / CHUNK_LARGE) >= CHUNKS_ENOUGH ? CHUNK_LARGE : CHUNK_LEAST;
        if (j->queries < least) j->queries = least;
        j->chunks = (length + j->queries - 1) / j->queries;
        j->tasks = rows * j->chunks;
        j->partial_floats = partial_floats(p, j->queries < length ? j->queries : length, more);
        if (wanted == 1 || j->tasks * j->partial_floats <= PARTIAL_MOST) break;
    }
}

/* The chunk that is task `index`. */
static inline size_t sums_order(const chunk_sums *j, size_t index)
{
    return index - index % j->chunks + lanes_order(index % j->chunks, j->chunks);
}
static inline chunk sums_chunk(const chunk_sums *j, size_t index)
{
    const plx_simplicial_problem *p = &j->args->problem;
    size_t query = index % j->chunks * j->queries, row = index / j->chunks, length = p->sequence.length;
    return lanes_chunk(p, row / p->kv_heads, row % p->kv_heads, 0, 1, query,
                       query + j->queries < length ? query + j->queries : length);
}

/* The chunk's sums, none begun: of count1 tokens from base1 on, and of those of its panels of k2 and v2. */
static inline partial *sums_begin(const chunk_sums *j, size_t index, const chunk *c, int64_t base1, size_t count1)
{
    partial *sums = &j->partials[index];
    *sums = (partial){.base1 = base1, .base2 = c->base2, .count1 = count1, .count2 = c->count2};
    sums->dk = j->sums + index * j->partial_floats;
    sums->dv = sums->dk + count1 * c->width;
    sums->dk2 = sums->dv + count1 * c->width;
    sums->dv2 = sums->dk2 + c->count2 * c->width;
    return sums;
}
/* Begins, at 0, the sums of tokens that no earlier block has seen: those of the panel of k before `end1`, and those of k2
 * that the block sees. Just before they are needed, so that they wait in the cache. */
static inline void sums_reach(partial *sums, const chunk *c, const block *at, size_t end1)
{
    size_t row = c->width * sizeof(float), end2 = 0;
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        if (s->k + s->count > end2) end2 = s->k + s->count;
    }
    if (end1 > sums->reached1) {
        memset(sums->dk + sums->reached1 * c->width, 0, (end1 - sums->reached1) * row);
        memset(sums->dv + sums->reached1 * c->width, 0, (end1 - sums->reached1) * row);
        sums->reached1 = end1;
    }
    if (end2 > sums->reached2) {
        memset(sums->dk2 + sums->reached2 * c->width, 0, (end2 - sums->reached2) * row);
        memset(sums->dv2 + sums->reached2 * c->width, 0, (end2 - sums->reached2) * row);
        sums->reached2 = end2;
    }
}

/* What scatter works in; of zeros at the start. */
typedef struct scatter_memory {
    float *q, *dout, *dq;                /* [width], of the (query, head) in work; q times the scale */
    float *q_moved, *u_moved, *k2_moved; /* [2, width]: for det, the components moved round */
} scatter_memory;
#define SCATTER_FLOATS(width) (9 * (width))
static inline scatter_memory scatter_begin(float *memory, size_t width)
{
    memset(memory, 0, SCATTER_FLOATS(width) * sizeof *memory);
    return (scatter_memory){
        memory, memory + width, memory + 2 * width, memory + 3 * width, memory + 5 * width, memory + 7 * width};
}

/* next[c] and after[c]: the components of a that in det's cross product stand in for c; 0 beyond the last whole chunk.
 */
static inline void move_round(const float *a, size_t d, float *next, float *after)
{
    for (size_t l = 0; l + 3 <= d; l += 3) {
        next[l] = after[l + 2] = a[l + 1];
        next[l + 1] = after[l] = a[l + 2];
        next[l + 2] = after[l + 1] = a[l];
    }
    for (size_t l = d / 3 * 3; l < d; l++) next[l] = after[l] = 0;
}

/* A segment's lanes for `V` vectors of components from l on, elementwise products. */
INLINE void scatter_vectors(const size_t V, const chunk *c, const segment *s, const float *u, const float *w, size_t l,
                            const scatter_memory *m, const partial *sums)
{
    size_t width = c->width, first = s->k * width + l;
    const float *k2 = c->k2 + first;
    float *dk2 = sums->dk2 + first, *dv2 = sums->dv2 + first, *dq = m->dq + l;
    vf q[TILE_VECTORS], dout[TILE_VECTORS], to_q[TILE_VECTORS];
    UNROLL for (size_t v = 0; v < V; v++)
    {
        q[v] = vf_load(m->q + l + v * PLX_VW);
        dout[v] = vf_load(m->dout + l + v * PLX_VW);
        to_q[v] = vf_load(dq + v * PLX_VW);
    }
    u += s->lane * width + l;
    w += s->lane * width + l;
    for (size_t i = 0; i < s->count; i++, u += width, w += width, k2 += width, dk2 += width, dv2 += width)
        UNROLL for (size_t v = 0; v < V; v++)
        {
            vf from = vf_load(u + v * PLX_VW);
            vf_store(dv2 + v * PLX_VW, vf_load(dv2 + v * PLX_VW) + vf_load(w + v * PLX_VW) * dout[v]);
            vf_store(dk2 + v * PLX_VW, vf_load(dk2 + v * PLX_VW) + q[v] * from);
            to_q[v] += from * vf_load(k2 + v * PLX_VW);
        }
    UNROLL for (size_t v = 0; v < V; v++) vf_store(dq + v * PLX_VW, to_q[v]);
}

/* out[c] += (a x b)[c] */
INLINE void add_cross(vf *out, const float *a_moved, const float *b_moved, size_t width, size_t l)
{
    *out += vf_load(a_moved + l) * vf_load(b_moved + width + l) - vf_load(a_moved + width + l) * vf_load(b_moved + l);
}
/* A segment's lanes with det's products. */
static inline void scatter_det(const chunk *c, const segment *s, const float *u_rows, const float *w_rows,
                               const scatter_memory *m, const partial *sums)
{
    size_t width = c->width;
    move_round(m->q, c->d, m->q_moved, m->q_moved + width);
    for (size_t i = 0; i < s->count; i++) {
        const float *w = w_rows + (s->lane + i) * width;
        float *dk2 = sums->dk2 + (s->k + i) * width, *dv2 = sums->dv2 + (s->k + i) * width;
        move_round(u_rows + (s->lane + i) * width, c->d, m->u_moved, m->u_moved + width);
        move_round(c->k2 + (s->k + i) * width, c->d, m->k2_moved, m->k2_moved + width);
        for (size_t l = 0; l < width; l += PLX_VW) {
            vf to_k2 = vf_load(dk2 + l), to_q = vf_load(m->dq + l);
            vf_store(dv2 + l, vf_load(dv2 + l) + vf_load(w + l) * vf_load(m->dout + l));
            add_cross(&to_k2, m->q_moved, m->u_moved, width, l);
            add_cross(&to_q, m->u_moved, m->k2_moved, width, l);
            vf_store(dk2 + l, to_k2);
            vf_store(m->dq + l, to_q);
        }
    }
}

/* What W and U [LANES, width] of a segment's lanes give: dq += scale * U o k' of its (query, head), dk' += scale * q o
 * U and dv' += W * dO of the tokens k. */
static inline void scatter(const chunk *c, const plx_simplicial_backward_args *args, const segment *s,
                           const float *u_rows, const float *w_rows, double scale, const scatter_memory *m,
                           const partial *sums)
{
    const plx_simplicial_problem *p = c->p;
    const float *q = lanes_at(c, p->q, s->query, s->head), *dout = lanes_at(c, args->dout, s->query, s->head);
    float factor = (float)scale;
    for (size_t l = 0; l < c->d; l++) {
        m->q[l] = q[l] * factor;
        m->dout[l] = dout[l];
    }
    if (s->first) memset(m->dq, 0, c->width * sizeof *m->dq);
    if (p->form == PLX_SIMPLICIAL_DET) {
        scatter_det(c, s, u_rows, w_rows, m, sums);
    } else {
        for (size_t l = 0; l < c->width;) {
            size_t vectors = tile_vectors((c->width - l) / PLX_VW);
            if (vectors == TILE_VECTORS)
                scatter_vectors(TILE_VECTORS, c, s, u_rows, w_rows, l, m, sums);
            else if (vectors == 2)
                scatter_vectors(2, c, s, u_rows, w_rows, l, m, sums);
            else
                scatter_vectors(1, c, s, u_rows, w_rows, l, m, sums);
            l += vectors * PLX_VW;
        }
    }
    float *dq = (float *)args->dq + (q - (const float *)p->q);
    for (size_t l = 0; s->last && l < c->d; l++) dq[l] = m->dq[l] * factor;
}

#endif
